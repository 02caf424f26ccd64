"""The last gate: every result is read back from its bytes and compared.

It is compared with the source's bytes and with what the pipeline measured.

Rules for this file and its neighbours:
1. Nothing of the code that builds results is used: patient, study, geometry and references come from the
   source files, the mask from the pipeline. `scripts/house.py` forbids these imports.
2. Any doubt raises `ResultRejected`; nothing is corrected here.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.records import AnswerContext, EncodedResult
from dicomnode.results.verify.attributes import check_attributes, check_class
from dicomnode.results.verify.companions import check_key_objects, check_mark, check_pdf, check_pictures
from dicomnode.results.verify.identity import check_identity
from dicomnode.results.verify.mask import check_mask, check_probability, check_second_mask, check_segments
from dicomnode.results.verify.references import check_references
from dicomnode.results.verify.report import check_refusal_report, check_report, check_summary
from dicomnode.results.verify.source import SourceStudy, read_source_study
from dicomnode.settings.config import ResultForm, ResultKind
from pipeline.records import PipelineResult, Volume

_ALWAYS: frozenset[ResultKind] = frozenset({"pictures", "pdf"})
"""What answers a study without lesions, besides the report."""
_Objects = Mapping[str, list[Dataset]]


@dataclass(frozen=True, eq=False)
class _Answer:
    """Everything that one answer is held against."""

    context: AnswerContext
    source: SourceStudy
    volume: Volume
    result: PipelineResult
    second: Volume | None

    def series(self, role: str) -> SourceSeries:
        for series in self.context.sources:
            if series.role == role:
                return series
        raise ResultRejected(f"the answer has no {role} series")


def verify_answer(
    results: Sequence[EncodedResult],
    context: AnswerContext,
    volume: Volume,
    result: PipelineResult,
    second: Volume | None = None,
) -> None:
    """Prove that the encoded results say what the pipeline measured, where it lies in the patient.

    The results must belong to the right patient.

    Parameters
    ----------
    results
        What `build_answer` made for the forms of `context`.
    volume
        The reference volume.
    second
        The T1 of a study whose reference is the FLAIR.

    Raises
    ------
    ResultRejected
        With the first difference.
    """
    sources = context.sources
    if sources[0].role != result.reference_role:
        raise ResultRejected(
            f"the result lies on the {result.reference_role}, but is to point to the {sources[0].role}"
        )
    with _doubt_refuses():
        answer = _Answer(context, read_source_study(context.template, sources), volume, result, second)
        by_kind = _read_all(results, answer.source)
        expected = {
            form.kind_of(object_kind)
            for form in context.forms
            for object_kind in _expected_parts(form, result, second)
        }
        if set(by_kind) != expected or any(
            len(objects) > 1 for kind, objects in by_kind.items() if not kind.startswith("pictures")
        ):
            raise ResultRejected(
                f"expected results {sorted(expected)}, got {sorted(item.kind for item in results)}"
            )
        for form in context.forms:
            _verify_form(form, by_kind, answer)


def verify_refusal(results: Sequence[EncodedResult], context: AnswerContext) -> None:
    """Prove that the objects without a segmentation are whole and belong to the study.

    They say why there is none. The study is that of the context's template.

    Raises
    ------
    ResultRejected
        With the first difference.
    """
    parts_of = {form: sorted({"sr", *_ALWAYS.intersection(form.objects)}) for form in context.forms}
    expected = sorted(
        {form.kind_of(object_kind) for form, object_kinds in parts_of.items() for object_kind in object_kinds}
    )
    if sorted(item.kind for item in results) != expected:
        raise ResultRejected(f"expected {expected}, got {sorted(item.kind for item in results)}")
    with _doubt_refuses():
        source = read_source_study(context.template)
        by_kind = _read_all(results, source)
        for form, object_kinds in parts_of.items():
            for object_kind in object_kinds:
                (dataset,) = by_kind[form.kind_of(object_kind)]
                check_attributes(object_kind, dataset)
                check_class(object_kind, dataset, form)
                check_references(dataset, source, [])
                if object_kind == "sr":
                    check_predecessors(dataset, context)
                    check_refusal_report(dataset)
                else:
                    _check_shown(object_kind, [dataset], None, context)


def read_back(item: EncodedResult) -> Dataset:
    """Read a result from its bytes, whole, and hold it against its own label."""
    try:
        with warnings.catch_warnings():
            # UIDs of the source may be none of PS3.5 9.1; they are compared letter by letter.
            warnings.filterwarnings("ignore", message="Invalid value for VR UI", category=UserWarning)
            dataset = pydicom.dcmread(io.BytesIO(item.data))
            dataset.walk(lambda _, element: element.value)
    except (InvalidDicomError, ValueError, EOFError) as problem:
        raise ResultRejected(f"the {item.kind} cannot be read back: {problem}") from problem
    if dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        raise ResultRejected(f"the {item.kind} is not Explicit VR Little Endian")
    for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID"):
        if dataset.get(keyword) != getattr(item, keyword):
            raise ResultRejected(f"the {item.kind} has another {keyword} than it is labelled with")
    meta = dataset.file_meta
    if (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) != (
        dataset.SOPInstanceUID,
        dataset.SOPClassUID,
    ):
        raise ResultRejected(f"the {item.kind}'s file meta information names another instance")
    return dataset


def check_predecessors(report: Dataset, context: AnswerContext) -> None:
    """Refuse a report that replaces itself, or one that nobody got."""
    sent = {earlier.SOPInstanceUID for earlier in context.earlier_reports}
    for study in report.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            for item in series.ReferencedSOPSequence:
                if (
                    item.ReferencedSOPInstanceUID not in sent
                    or item.ReferencedSOPInstanceUID == report.SOPInstanceUID
                ):
                    raise ResultRejected("the report replaces a report that was not sent before it")


@contextmanager
def _doubt_refuses() -> Iterator[None]:
    """Turn what a missing or odd element raises into a refusal.

    A result that cannot be compared is not sent.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as problem:
        raise ResultRejected(
            f"a result lacks what it is compared by: {type(problem).__name__}: {problem}"
        ) from problem


def _read_all(results: Sequence[EncodedResult], source: SourceStudy) -> _Objects:
    """Read every result back, hold it against patient and study of the source, and return them by kind."""
    by_kind: dict[str, list[Dataset]] = {}
    for item in results:
        by_kind.setdefault(item.kind, []).append(read_back(item))
        check_identity(by_kind[item.kind][-1], source)
    return by_kind


def _check_shown(
    object_kind: ResultKind,
    objects: Sequence[Dataset],
    result: PipelineResult | None,
    context: AnswerContext,
) -> None:
    for dataset in objects:
        check_mark(dataset)
        if object_kind == "pdf":
            check_pdf(dataset, context.language)
    if object_kind == "pictures":
        check_pictures(objects, result, context.sources[0] if result else None, context.language)


def _expected_parts(form: ResultForm, result: PipelineResult, second: Volume | None) -> set[ResultKind]:
    """Return what an answer must have: always the report, and with lesions the SEG that it points to."""
    if not result.lesions:
        return {"sr", *_ALWAYS.intersection(form.objects)}
    object_kinds: set[ResultKind] = {"seg", "sr", *form.objects}
    if second is None or "t1" not in result.links:
        object_kinds.discard("seg-t1")
    return object_kinds


def _verify_form(form: ResultForm, by_kind: _Objects, answer: _Answer) -> None:
    """Prove the objects of one form against the source, the pipeline, and each other."""
    result, reference = answer.result, answer.context.sources[0]
    datasets = [dataset for objects in by_kind.values() for dataset in objects]
    for object_kind in sorted(_expected_parts(form, result, answer.second)):
        for dataset in by_kind[form.kind_of(object_kind)]:
            check_attributes(object_kind, dataset)
            check_class(object_kind, dataset, form)
            check_references(dataset, answer.source, datasets)
    segmentation = by_kind[form.kind_of("seg")][0] if result.lesions else None
    if segmentation is not None:
        check_segments(segmentation, result)
        check_mask(segmentation, answer.volume, result, reference, answer.source)
    for dataset in by_kind.get(form.kind_of("probability"), []):
        check_probability(dataset, answer.volume, result, reference, answer.source)
    for dataset in by_kind.get(form.kind_of("seg-t1"), []):
        _verify_second(dataset, answer)
    for object_kind in form.objects:
        _check_shown(object_kind, by_kind.get(form.kind_of(object_kind), []), result, answer.context)
    for dataset in by_kind.get(form.kind_of("ko"), []):
        if segmentation is None:
            raise ResultRejected("there are key objects without a segmentation")
        check_key_objects(dataset, segmentation, reference)
    (report,) = by_kind[form.kind_of("sr")]
    check_predecessors(report, answer.context)
    language = answer.context.language
    check_report(report, segmentation, result, answer.context.sources, answer.source, language)
    for dataset in by_kind.get(form.kind_of("summary"), []):
        if segmentation is None:
            raise ResultRejected("there is a summary of lesions without a segmentation")
        check_summary(dataset, segmentation, result, answer.context.sources, language)


def _verify_second(dataset: Dataset, answer: _Answer) -> None:
    if answer.second is None:
        raise ResultRejected("there is a segmentation on the T1, but no T1 was read")
    link = answer.result.links["t1"]
    check_segments(dataset, answer.result)
    check_second_mask(dataset, answer.second, link, answer.result, answer.series("t1"), answer.source)
