"""The structured report of a study in which no lesion was found.

TID 1500 as the positive report, but under the title "Diagnostic Imaging Report": OHIF crashes on Imaging
Measurement Reports (126000) without coordinates, and shows any other title as readable text.
"""

from __future__ import annotations

from highdicom import sr
from pydicom.dataset import Dataset

from dicomnode.results.parts import AnswerParts
from dicomnode.results.report.changes import changes_told, evaluate_changes
from dicomnode.results.report.document import (
    EncodingPlan,
    Verdict,
    build_document,
    make_measurement,
    make_report,
)
from dicomnode.results.report.lesions import cite_algorithm
from dicomnode.results.report.texts import texts_of
from dicomnode.results.words import codes
from dicomnode.results.words.sentences import is_limited, may_claim_absence, was_refused
from dicomnode.settings.config import ResultForm


def build_negative_report(parts: AnswerParts, form: ResultForm) -> Dataset:
    """Return the report that says that the analysis succeeded and found no lesion.

    Where an input was refused on the way, the summary says that not all algorithms succeeded. Absence is not
    claimed then, nor where the FLAIR was not used in full (`may_claim_absence`).
    """
    result, findings = parts.result, parts.findings
    is_absent = may_claim_absence(result.used, findings)
    lesion = codes.ABSENT if is_absent else codes.UNDETERMINED
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=parts.provenance.uid("all lesions"), identifier="All lesions"
        ),
        finding_type=codes.LESION_OF_BRAIN,
        finding_sites=[sr.FindingSite(codes.BRAIN)],
        algorithm_id=cite_algorithm(result.plan),
        measurements=[make_measurement(item) for item in result.measurements],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.LESION_OF_BRAIN, lesion),
            *evaluate_changes(changes_told(result)),
        ],
    )
    plan = EncodingPlan(parts, form, texts_of(parts.narrative))
    summary = (
        codes.SOME_SUCCEEDED_WITHOUT_FINDINGS
        if was_refused(findings)
        else codes.ALL_SUCCEEDED_WITHOUT_FINDINGS
    )
    verdict = Verdict(codes.DIAGNOSTIC_IMAGING_REPORT, summary, lesion, is_limited(findings))
    return build_document(make_report([group], [], verdict, plan), plan)
