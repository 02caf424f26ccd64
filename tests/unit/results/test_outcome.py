"""What an answer comes to, as its report says it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from dicomnode.records import Finding
from dicomnode.results.outcome import judge, summarize
from dicomnode.states import Outcome
from pipeline.records import PipelineResult


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ((), Outcome.NEGATIVE),
        ((Finding("slices-left-out", "warning", "1 slice was left out."),), Outcome.UNDETERMINED),
        ((Finding("no-flair", "warning", "No FLAIR was used."),), Outcome.UNDETERMINED),
        ((Finding("gap", "refuse", "The FLAIR series was not used."),), Outcome.UNDETERMINED),
    ],
)
def test_finding_nothing_is_called_what_the_report_calls_it(
    findings: tuple[Finding, ...], outcome: Outcome
) -> None:
    nothing = cast(
        "PipelineResult", SimpleNamespace(lesions=(), findings=(), measurements=(), used=("flair",))
    )
    assert judge(nothing, findings) is outcome
    assert ("cannot rule one out" in summarize(nothing, outcome)) is (outcome is Outcome.UNDETERMINED)
    assert (
        judge(cast("PipelineResult", SimpleNamespace(lesions=(1,), findings=())), findings) is Outcome.LESIONS
    )


def test_nothing_is_absent_where_no_flair_was_used() -> None:
    nothing = cast("PipelineResult", SimpleNamespace(lesions=(), findings=(), measurements=(), used=("t1",)))
    assert judge(nothing, ()) is Outcome.UNDETERMINED
