"""The answer to a study as finished DICOM objects, byte for byte as they will be sent."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import Finding
from dicomnode.results.document import EncodingPlan
from dicomnode.results.headers import read_header, read_source, repair_template
from dicomnode.results.provenance import AnswerContext, plan_provenance
from dicomnode.results.seg import build_segmentation
from dicomnode.results.segments import plan_segments
from dicomnode.results.sr import build_lesion_report
from dicomnode.results.sr_negative import build_negative_report
from dicomnode.results.sr_refusal import build_refusal_report
from dicomnode.results.wording import Findings
from dicomnode.states import Outcome
from pipeline.records import PipelineResult, Volume

__all__ = ["AnswerContext", "EncodedResult", "build_answer", "build_refusal"]


@dataclass(frozen=True)
class EncodedResult:
    """One result object: `kind` "seg" or "sr", and `data`, a whole DICOM file (PS3.10)."""

    kind: str
    data: bytes
    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str
    filename: str


def build_answer(context: AnswerContext, volume: Volume, result: PipelineResult, findings: Sequence[Finding]) -> tuple[EncodedResult, ...]:
    """Return SEG and SR of a result, or the negative SR alone when there is no lesion.

    Parameters
    ----------
    volume
        The reference volume, on whose grid the result lies.

    Raises
    ------
    StudyRefused
        The source's headers cannot carry a segmentation; `code` says why.
    ResultRejected
        What was found does not fit the source.
    """
    provenance = plan_provenance(context, result)
    evidence = [read_source(source, volume if number == 0 else None) for number, source in enumerate(context.sources)]
    remarks: Findings = [*findings, *result.findings]
    try:
        with _names_as_they_come():
            if not result.lesions:
                return (encode("sr", build_negative_report(context, result, evidence, remarks, provenance)),)
            plans = plan_segments(result, context.settings.maximum_segments, provenance)
            segmentation = build_segmentation(context, result, evidence[0], plans, provenance)
            report = build_lesion_report(context, result, evidence, segmentation, plans, remarks, provenance)
            return encode("seg", segmentation), encode("sr", report)
    except (ValueError, AttributeError, TypeError, LookupError) as problem:
        # highdicom's own checks: the object would not be valid.
        raise ResultRejected(f"the result could not be encoded: {type(problem).__name__}: {problem}") from problem


def build_refusal(
    context: AnswerContext, code: str, sentence: str, findings: Sequence[Finding], outcome: Outcome
) -> tuple[EncodedResult, ...]:
    """Return the SR that says why a study has no segmentation."""
    provenance = plan_provenance(context, None, code, sentence, outcome.value)
    template = repair_template(read_header(context.template))
    plan = EncodingPlan(context, (), (), provenance)
    with _names_as_they_come():
        return (encode("sr", build_refusal_report(plan, template, code, sentence, findings, outcome)),)


def encode(kind: str, dataset: Dataset) -> EncodedResult:
    """Return a finished dataset as the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return EncodedResult(
        kind=kind,
        data=buffer.getvalue(),
        SOPInstanceUID=str(dataset.SOPInstanceUID),
        SOPClassUID=str(dataset.SOPClassUID),
        SeriesInstanceUID=str(dataset.SeriesInstanceUID),
        filename=f"{kind}.dcm",
    )


@contextmanager
def _names_as_they_come() -> Iterator[None]:
    """Silence what highdicom says to programmers about person names: these are the source's, and they stay."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*unlikely to represent the intended person name.*", category=UserWarning)
        yield
