"""The structured report of a study that was not processed.

What stood in the way and what to do, in words and codes.

It never says that a lesion is absent: nothing was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset

from dicomnode.results.parts import StudyParts
from dicomnode.results.report.document import EncodingPlan, Verdict, build_document, make_report
from dicomnode.results.report.texts import texts_of_refusal
from dicomnode.results.words import codes
from dicomnode.results.words.language import phrase
from dicomnode.settings.config import ResultForm


def build_refusal_report(parts: StudyParts, form: ResultForm, sentences: Sequence[str]) -> Dataset:
    """Return the report that says why there is no segmentation; it points to one instance of the study."""
    absence = phrase("limits.no-absence", parts.context.language)
    warning = phrase("limits.warning", parts.context.language)
    plan = EncodingPlan(parts, form, texts_of_refusal([*sentences, f"{absence} {warning}"]))
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=parts.provenance.uid("analysis"), identifier="Analysis"
        ),
        finding_type=codes.LESION_OF_BRAIN,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.CAD_SUMMARY, codes.NONE_SUCCEEDED),
            sr.QualitativeEvaluation(codes.LESION_OF_BRAIN, codes.UNDETERMINED),
        ],
    )
    verdict = Verdict(codes.DIAGNOSTIC_IMAGING_REPORT, codes.NONE_SUCCEEDED, codes.UNDETERMINED)
    return build_document(make_report([group], [], verdict, plan), plan)
