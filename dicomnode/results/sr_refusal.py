"""The structured report of a study that was not processed: what stood in the way and what to do, in words and codes.

It never says that a lesion is absent: nothing was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset

from dicomnode.results import codes
from dicomnode.results.document import EncodingPlan, build_document, make_report
from dicomnode.results.wording import Findings, describe_remarks
from dicomnode.states import Outcome

NO_ABSENCE = "Absence of a segmentation does not mean absence of a lesion."
_OPENING = {
    Outcome.REFUSED: "This study was not analysed for stroke lesions.",
    Outcome.FAILED: "The analysis for stroke lesions failed on this study.",
}


def describe_refusal(code: str, sentence: str, findings: Findings, outcome: Outcome) -> tuple[str, ...]:
    """Return what is said of a study without a segmentation.

    Parameters
    ----------
    code, sentence
        Stable kebab-case reason, and one sentence that says what is wrong and what to do.
    """
    return (_OPENING.get(outcome, _OPENING[Outcome.FAILED]), sentence, f"Reason code: {code}", *describe_remarks(findings))


def build_refusal_report(plan: EncodingPlan, evidence: Dataset, sentences: Sequence[str]) -> Dataset:
    """Return the report that says why there is no segmentation.

    Parameters
    ----------
    evidence
        Repaired header of any instance of the study: all that the report points to.
    """
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=plan.provenance.uid("analysis"), identifier="Analysis"),
        finding_type=codes.LESION_OF_BRAIN,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.CAD_SUMMARY, codes.NONE_SUCCEEDED),
            sr.QualitativeEvaluation(codes.LESION_OF_BRAIN, codes.UNDETERMINED),
        ],
    )
    report = make_report(
        [group],
        title=codes.DIAGNOSTIC_IMAGING_REPORT,
        conclusion=codes.NONE_SUCCEEDED,
        lesion=codes.UNDETERMINED,
        sentences=sentences,
        statement=NO_ABSENCE,
        plan=plan,
    )
    return build_document(report, [evidence], plan)
