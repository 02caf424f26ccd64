"""The structured report of a study that was not processed.

What stood in the way and what to do, in words and codes.

It never says that a lesion is absent: nothing was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset

from dicomnode.results.report.document import EncodingPlan, build_document, make_report
from dicomnode.results.words import codes
from dicomnode.results.words.sentences import NO_ABSENCE


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
