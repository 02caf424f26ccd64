"""The answer to a study as finished DICOM objects, byte for byte as they will be sent.

They are built in every form that a destination wants.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import Finding
from dicomnode.results.character_set import widen_character_set
from dicomnode.results.companions.key_pictures import KeyPicture, draw_key_pictures, draw_notice
from dicomnode.results.companions.objects import build_key_objects, build_pdf, build_pictures
from dicomnode.results.companions.page_content import describe_result, page_of_refusal
from dicomnode.results.companions.preview import draw_montage
from dicomnode.results.forms import PARTS, settle
from dicomnode.results.headers.identity import (
    carry_identity,
    copy_identity,
    find_lost_identity,
    repair_identity,
)
from dicomnode.results.headers.source import read_header, read_source, repair_template, take_header
from dicomnode.results.parts import AnswerParts, StudyParts
from dicomnode.results.provenance import describe_algorithm, plan_provenance
from dicomnode.results.records import AnswerContext, EncodedResult
from dicomnode.results.report.lesions import build_lesion_report, build_summary
from dicomnode.results.report.negative import build_negative_report
from dicomnode.results.report.refusal import build_refusal_report
from dicomnode.results.seg.second_grid import SecondGrid, build_second_segmentation, find_second_grid
from dicomnode.results.seg.segmentation import build_probability, build_segmentation
from dicomnode.results.segments import plan_segments
from dicomnode.results.words.narrative import narrate
from dicomnode.results.words.remarks import say_refusal
from dicomnode.settings.config import ResultForm, ResultKind
from dicomnode.states import Outcome
from pipeline.records import PipelineResult, Volume


def build_answer(
    context: AnswerContext,
    volume: Volume,
    result: PipelineResult,
    findings: Sequence[Finding],
    second: Volume | None = None,
    loaded_headers: Mapping[Path, Dataset] | None = None,
) -> tuple[EncodedResult, ...]:
    """Return SEG and SR of a result, or the negative SR alone when there is no lesion.

    The objects that `context.forms` ask for come with them.

    Parameters
    ----------
    volume
        The reference volume, on whose grid the result lies.
    second
        The T1 of a study whose reference is the FLAIR.
    loaded_headers
        Headers of source files that were read already; the others are read.

    Raises
    ------
    StudyRefused
        The source's headers cannot carry a segmentation; `code` says why.
    ResultRejected
        What was found does not fit the source.
    """
    try:
        with _values_as_they_come():
            workshop = _open_workshop(context, volume, result, findings, second, loaded_headers)
            return tuple(_in_each_form(workshop, int(workshop.parts.evidence[0][0].Columns)))
    except (ValueError, AttributeError, TypeError, LookupError) as problem:
        # highdicom's own checks: the object would not be valid.
        raise ResultRejected(
            f"the result could not be encoded: {type(problem).__name__}: {problem}"
        ) from problem


def build_refusal(
    context: AnswerContext, code: str, sentence: str, findings: Sequence[Finding], outcome: Outcome
) -> tuple[EncodedResult, ...]:
    """Return the SR that says why a study has no segmentation.

    A page and a picture with the same words are added where those are wanted.
    """
    provenance = plan_provenance(context, None, code, sentence, outcome.value)
    built_files: dict[str, EncodedResult] = {}
    with _values_as_they_come():
        raw = read_header(context.template)
        parts = StudyParts(context, (), [[repair_template(raw)]], provenance)
        remarks = (*findings, *find_lost_identity(raw))
        opening = "refused" if outcome is Outcome.REFUSED else "failed"
        words = say_refusal(code, sentence, remarks, opening, context.language)
        for form in context.forms:
            settled = settle(form, found=False)
            objects = {form.kind_of("sr"): build_refusal_report(parts, settled, words)}
            if "pdf" in form.objects:
                page = page_of_refusal(words, copy_identity(parts.evidence[0][0]), context.language)
                objects["pdf"] = build_pdf(parts, settled, page, None)
            if "pictures" in form.objects:
                (notice,) = build_pictures(parts, settled, [draw_notice(words, context.language)])
                objects[form.kind_of("pictures")] = notice
            for kind, dataset in objects.items():
                _finish(dataset, repair_identity(raw))
                built_files[kind] = encode(kind, dataset)
    return tuple(built_files.values())


@dataclass(frozen=True, eq=False)
class _Workshop:
    """What every object of one answer is made from, and what is made already."""

    parts: AnswerParts
    grid: SecondGrid | None
    identity: Dataset
    objects_of_kind: dict[str, list[Dataset]] = field(default_factory=dict)

    def make(self, object_kind: ResultKind, form: ResultForm) -> list[Dataset]:
        """Return the objects of one kind in a settled form; none where the kind has nothing to show."""
        kind = form.kind_of(object_kind)
        if kind not in self.objects_of_kind:
            self.objects_of_kind[kind] = list(self._build(object_kind, form))
        return self.objects_of_kind[kind]

    def _build(self, object_kind: ResultKind, form: ResultForm) -> Iterable[Dataset]:
        parts = self.parts
        if object_kind == "sr":
            return [self._report(form)]
        if object_kind == "pictures":
            return build_pictures(parts, form, self.pictures)
        if object_kind == "pdf":
            montage = draw_montage(parts.volume, parts.result, parts.context.language)
            identity = copy_identity(parts.evidence[0][0])
            return [build_pdf(parts, form, describe_result(parts, identity), montage)]
        # What follows shows lesions only.
        return self._outline(object_kind, form) if parts.result.lesions else ()

    def _outline(self, object_kind: ResultKind, form: ResultForm) -> Iterator[Dataset]:
        if object_kind == "seg":
            yield build_segmentation(self.parts, form)
        elif object_kind == "summary":
            (segmentation,) = self.make("seg", form)
            yield build_summary(self.parts, form, segmentation)
        elif object_kind == "seg-t1" and self.grid is not None:
            yield build_second_segmentation(self.parts, form, self.grid)
        elif object_kind == "probability":
            yield build_probability(self.parts, form)
        elif object_kind == "ko":
            (segmentation,) = self.make("seg", form)
            yield build_key_objects(self.parts, form, self.pictures, segmentation)

    @cached_property
    def pictures(self) -> tuple[KeyPicture, ...]:
        """The montage and the key slices."""
        parts = self.parts
        return draw_key_pictures(parts.volume, parts.result, parts.context.language)

    def _report(self, form: ResultForm) -> Dataset:
        if not self.parts.result.lesions:
            return build_negative_report(self.parts, form)
        (segmentation,) = self.make("seg", form)
        return build_lesion_report(self.parts, form, segmentation)


def _open_workshop(
    context: AnswerContext,
    volume: Volume,
    result: PipelineResult,
    findings: Sequence[Finding],
    second: Volume | None,
    loaded_headers: Mapping[Path, Dataset] | None,
) -> _Workshop:
    grid = find_second_grid(second, context.sources, result)
    provenance = plan_provenance(context, result)
    grids = {grid.source.role: grid.volume} if grid else {}
    evidence = [
        read_source(source, volume if number == 0 else grids.get(source.role), loaded_headers)
        for number, source in enumerate(context.sources)
    ]
    plans = plan_segments(result, context.settings.maximum_segments, provenance, context.language)
    raw = take_header(context.template, loaded_headers)
    remarks = (*findings, *result.findings, *find_lost_identity(raw))
    algorithm = describe_algorithm(result.plan)
    narrative = narrate(
        result,
        remarks,
        context.language,
        {"name": algorithm.name, "version": algorithm.version},
        [plan.lesions for plan in plans],
    )
    parts = AnswerParts(
        context, result.models, evidence, provenance, volume, result, remarks, plans, narrative
    )
    return _Workshop(parts, grid, repair_identity(raw))


def _in_each_form(workshop: _Workshop, columns: int) -> Iterable[EncodedResult]:
    built_kinds: set[str] = set()
    for form in workshop.parts.context.forms:
        settled = settle(form, found=bool(workshop.parts.result.lesions), columns=columns)
        for object_kind in PARTS:
            kind = form.kind_of(object_kind)
            if kind in built_kinds or object_kind not in (*form.objects, "seg", "sr"):
                continue
            built_kinds.add(kind)
            objects = workshop.make(object_kind, settled)
            for number, dataset in enumerate(objects, start=1):
                _finish(dataset, workshop.identity)
                yield encode(kind, dataset, number if len(objects) > 1 else None)


def _finish(dataset: Dataset, identity: Dataset) -> None:
    """Give an object the source's patient and study, and a character set that has all of its letters."""
    carry_identity(dataset, identity)
    widen_character_set(dataset)


def encode(kind: str, dataset: Dataset, number: int | None = None) -> EncodedResult:
    """Return a finished dataset as the bytes of a DICOM file; `number` tells objects of one kind apart."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return EncodedResult(
        kind=kind,
        data=buffer.getvalue(),
        SOPInstanceUID=str(dataset.SOPInstanceUID),
        SOPClassUID=str(dataset.SOPClassUID),
        SeriesInstanceUID=str(dataset.SeriesInstanceUID),
        filename=f"{kind}.dcm" if number is None else f"{kind}-{number:02d}.dcm",
    )


@contextmanager
def _values_as_they_come() -> Iterator[None]:
    """Silence what the libraries say to programmers about names and UIDs.

    These are the source's, and they stay.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*unlikely to represent the intended person name.*", category=UserWarning
        )
        warnings.filterwarnings("ignore", message="Invalid value for VR UI", category=UserWarning)
        yield
