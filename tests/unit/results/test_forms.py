"""Every form that a destination can ask for: built, read back, proven, and shown to be refused when it is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import UID

from dicomnode.errors import ResultRejected
from dicomnode.network.result_classes import classes_of
from dicomnode.results.build import build_answer, build_refusal, encode
from dicomnode.results.records import EncodedResult
from dicomnode.results.verify.gate import read_back, verify_answer, verify_refusal
from dicomnode.results.verify.mask import read_frames
from dicomnode.settings.config import ResultForm
from dicomnode.states import Outcome
from pipeline.records import Volume
from tests.factories.dicom import phantom_study
from tests.factories.results import Answered, answered_study, volume_of

FORMS = {
    "plain": ResultForm(),
    "pseudo-fractional": ResultForm(segmentation="pseudo-fractional", report="comprehensive"),
    "auto": ResultForm(segmentation="auto", report="enhanced"),
    "labelmap": ResultForm(segmentation="labelmap"),
    "probability": ResultForm(objects=("seg", "sr", "probability")),
    "t1": ResultForm(objects=("seg", "sr", "seg-t1")),
}
# 4 degrees about the head's axis and 3 mm to the left: from the reference's mm to the T1's.
LINK = np.array([[0.9976, -0.0698, 0, 3.0], [0.0698, 0.9976, 0, -1.0], [0, 0, 1, 0.5], [0, 0, 0, 1]])


def in_forms(answered: Answered, *forms: ResultForm) -> Answered:
    return replace(answered, context=replace(answered.context, forms=forms))


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    study = answered_study(
        tmp_path_factory.mktemp("study"), flair={"shape": (20, 40, 53), "spacing_mm": (7.5, 4.0, 4.25)}
    )
    return replace(study, result=replace(study.result, links={**study.result.links, "t1": LINK}))


@pytest.fixture(scope="module")
def second(answered: Answered) -> Volume:
    series = phantom_study(roles=("t1",), t1={"shape": (8, 32, 32), "spacing_mm": (24.0, 6.0, 6.0)}).series[
        "t1"
    ]
    return volume_of(series, answered.volume.frame_of_reference_uid)


def answer(answered: Answered, second: Volume | None = None) -> tuple[EncodedResult, ...]:
    results = build_answer(answered.context, answered.volume, answered.result, (), second)
    verify_answer(results, answered.context, answered.volume, answered.result, second)
    return results


@pytest.fixture(scope="module")
def answer_in(answered: Answered, second: Volume) -> Callable[[str], tuple[EncodedResult, ...]]:
    """Return the proven answer in one of FORMS; each is built once."""
    return functools.cache(lambda name: answer(in_forms(answered, FORMS[name]), second))


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_proven_from_its_bytes(
    answer_in: Callable[[str], tuple[EncodedResult, ...]], name: str
) -> None:
    form = FORMS[name]
    results = answer_in(name)

    sent = {item.kind: item.SOPClassUID for item in results if item.kind in form.kinds}
    assert sent == {form.kind_of(part): sop_class for part, sop_class in classes_of(form).items()}  # type: ignore[arg-type]
    assert (
        len({item.SOPInstanceUID for item in results})
        == len({item.SeriesInstanceUID for item in results})
        == len(results)
    )


@pytest.mark.parametrize(("columns", "expected"), [(56, "BINARY"), (53, "FRACTIONAL")])
def test_auto_leaves_one_bit_where_rows_do_not_fill_bytes(
    tmp_path: Path, columns: int, expected: str
) -> None:
    flair = {"shape": (20, 40, columns), "spacing_mm": (7.5, 4.0, 4.25)}
    study = in_forms(answered_study(tmp_path, roles=("flair",), flair=flair), FORMS["auto"])
    seg = read_back(next(item for item in answer(study) if item.kind == "seg.auto"))

    assert seg.SegmentationType == expected
    assert np.array_equal(np.unique(read_frames(seg)), [0, 1 if expected == "BINARY" else 255])


def test_destinations_that_want_the_same_get_the_same_object(answered: Answered) -> None:
    forms = (FORMS["plain"], ResultForm(objects=("sr",)), FORMS["pseudo-fractional"], FORMS["auto"])
    results = answer(in_forms(answered, *forms))
    by_kind = {item.kind: item for item in results}

    assert sorted(by_kind) == [
        "seg",
        "seg.auto",
        "seg.pseudo-fractional",
        "sr",
        "sr.comprehensive.pseudo-fractional",
        "sr.enhanced.auto",
    ]
    assert by_kind["seg.auto"].data == by_kind["seg.pseudo-fractional"].data != by_kind["seg"].data
    assert by_kind["seg"].data == next(item for item in answer(answered) if item.kind == "seg").data


def test_reports_of_every_class_say_the_same(answered: Answered) -> None:
    forms = [ResultForm(report=report) for report in ("comprehensive-3d", "comprehensive", "enhanced")]
    reports = [read_back(item) for item in answer(in_forms(answered, *forms)) if item.kind.startswith("sr")]

    assert len({report.SOPInstanceUID for report in reports}) == 3
    first, *others = (report.ContentSequence for report in reports)
    assert all(other == first for other in others)


def test_a_study_without_lesions_has_one_report_whatever_the_outlines_would_be(tmp_path: Path) -> None:
    study = in_forms(
        answered_study(tmp_path, found=False), FORMS["plain"], FORMS["labelmap"], FORMS["probability"]
    )
    results = answer(study)

    assert [item.kind for item in results] == ["sr", "sr.labelmap"]
    assert results[0].data == results[1].data


def test_a_refusal_comes_in_the_class_that_is_taken(answered: Answered) -> None:
    context = replace(answered.context, sources=(), forms=(FORMS["plain"], FORMS["auto"]))
    results = build_refusal(
        context, "slice-missing", "The FLAIR has a gap; send it again.", (), Outcome.REFUSED
    )
    verify_refusal(results, context)

    assert [(item.kind, UID(item.SOPClassUID).name) for item in results] == [
        ("sr", "Comprehensive 3D SR Storage"),
        ("sr.enhanced.auto", "Enhanced SR Storage"),
    ]


def test_the_outlines_on_the_t1_lie_where_the_link_says(
    answered: Answered, second: Volume, answer_in: Callable[[str], tuple[EncodedResult, ...]]
) -> None:
    results = answer_in("t1")
    seg = read_back(next(item for item in results if item.kind == "seg-t1"))
    first = read_back(next(item for item in results if item.kind == "seg"))

    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == answered.context.sources[1].SeriesInstanceUID
    assert [item.TrackingUID for item in seg.SegmentSequence] == [
        item.TrackingUID for item in first.SegmentSequence
    ]
    elsewhere = replace(answered.result, links={**answered.result.links, "t1": np.eye(4)})
    with pytest.raises(ResultRejected, match="other places"):
        verify_answer(results, in_forms(answered, FORMS["t1"]).context, answered.volume, elsewhere, second)


def test_without_a_t1_there_is_no_second_mask(tmp_path: Path) -> None:
    study = in_forms(answered_study(tmp_path, roles=("flair",)), FORMS["t1"])

    assert [item.kind for item in answer(study)] == ["seg", "sr"]


def half_sure(dataset: Dataset) -> None:
    frames = read_frames(dataset).copy()
    frames[frames > 0] = 128
    dataset.PixelData = frames.tobytes()


def one_voxel_more(dataset: Dataset) -> None:
    frames = read_frames(dataset).copy()
    frames[0, 0, 0] = frames.max()
    dataset.PixelData = frames.tobytes()


def mirrored(dataset: Dataset) -> None:
    frames = np.ascontiguousarray(read_frames(dataset)[:, :, ::-1])
    dataset.PixelData = pack_bits(frames) if dataset.BitsAllocated == 1 else frames.tobytes()


@pytest.mark.parametrize(
    ("name", "part", "fault", "words"),
    [
        ("pseudo-fractional", "seg", half_sure, "neither yes nor no"),
        ("pseudo-fractional", "seg", one_voxel_more, "differs from the lesions"),
        ("auto", "seg", mirrored, "differs from the lesions"),
        ("labelmap", "seg", one_voxel_more, "differs from the lesions"),
        ("labelmap", "seg", mirrored, "differs from the lesions"),
        ("probability", "probability", half_sure, "probabilities differ"),
        ("probability", "probability", mirrored, "probabilities differ"),
        ("t1", "seg-t1", mirrored, "other places"),
    ],
)
def test_a_wrong_object_of_any_form_does_not_leave(
    answered: Answered,
    second: Volume,
    answer_in: Callable[[str], tuple[EncodedResult, ...]],
    name: str,
    part: Any,
    fault: Callable[[Dataset], None],
    words: str,
) -> None:
    study = in_forms(answered, FORMS[name])
    kind = FORMS[name].kind_of(part)
    dataset = read_back(next(item for item in answer_in(name) if item.kind == kind))
    fault(dataset)
    results = tuple(encode(kind, dataset) if item.kind == kind else item for item in answer_in(name))

    with pytest.raises(ResultRejected, match=words):
        verify_answer(results, study.context, study.volume, study.result, second)


def test_a_missing_or_unasked_object_is_seen(answered: Answered) -> None:
    results = answer(in_forms(answered, FORMS["probability"]))

    with pytest.raises(ResultRejected, match="expected results"):
        verify_answer(
            results[:-1], in_forms(answered, FORMS["probability"]).context, answered.volume, answered.result
        )
    with pytest.raises(ResultRejected, match="expected results"):
        verify_answer(results, answered.context, answered.volume, answered.result)


def test_an_object_under_a_wrong_name_is_seen(answered: Answered) -> None:
    results = [replace(item, kind=f"{item.kind}.labelmap") for item in answer(answered)]
    context = replace(answered.context, forms=(FORMS["labelmap"],))

    with pytest.raises(ResultRejected, match="SegmentationType and BitsAllocated are"):
        verify_answer(results, context, answered.volume, answered.result)
