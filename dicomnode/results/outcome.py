"""What an answer comes to: its outcome, and that in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from dicomnode.records import Finding
from dicomnode.results.words.sentences import may_claim_absence
from dicomnode.states import Outcome
from pipeline.counts import counted
from pipeline.records import PipelineResult


def judge(result: PipelineResult, findings: Sequence[Finding]) -> Outcome:
    """Return what the results say, as their report does.

    Finding nothing is no absence where an input was left out or no FLAIR was used.

    `findings` are those of the choice and loading of series.
    """
    if result.lesions:
        return Outcome.LESIONS
    return (
        Outcome.NEGATIVE
        if may_claim_absence(result.used, (*findings, *result.findings))
        else Outcome.UNDETERMINED
    )


def summarize(result: PipelineResult, outcome: Outcome) -> str:
    """Return the answer in one sentence."""
    if outcome is Outcome.UNDETERMINED:
        return "No lesion was found, but these images cannot rule one out; the findings say why."
    if not result.lesions:
        return "No lesion found."
    total_ml = sum(m.value for m in result.measurements if m.name == "total_volume")
    return f"{counted(len(result.lesions), 'lesion')}, {total_ml:.1f} ml in all."
