"""Labels of lesions in a viewer: none is printed over another one, at any zoom from the smallest screen on."""

from __future__ import annotations

import random
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomnode.results.build import build_answer
from dicomnode.results.report.labels import SCREEN_PIXELS, choose_labels
from dicomnode.results.verify.gate import verify_answer
from pipeline.records import LongAxis
from tests.factories.dicom import Blob
from tests.factories.results import answered_study

Label = tuple[LongAxis, str]
# Measured in OHIF 3.13 (tests/end_to_end/test_ohif.py): 14 pixels, the widest of usual fonts, two lines.
LETTER_PIXELS, HEIGHT_PIXELS = 8.4, 36


def boxes_overlap(first: Label, second: Label, row_scale: float, column_scale: float) -> bool:
    """Tell whether two labels overlap on a screen with so many pixels a row and a column of the image."""
    if first[0].slice_index != second[0].slice_index:
        return False
    (upper, lower), (near, far) = (
        sorted((axis.start[0] + axis.end[0]) / 2 * row_scale for axis, _ in (first, second)),
        sorted(
            (max(axis.start[1], axis.end[1]) * column_scale, max(len(words), 19) * LETTER_PIXELS)
            for axis, words in (first, second)
        ),
    )
    return lower - upper < HEIGHT_PIXELS and far[0] - near[0] < near[1]


def scattered(rng: random.Random, count: int, slices: int, side: int) -> list[Label]:
    """Return lesions anywhere in a few slices of a square image, several at the same height."""
    lesions = []
    for number in range(1, count + 1):
        row, column = rng.choice((rng.uniform(0, side), side / 2)), rng.uniform(0, side)
        end = row + rng.uniform(-side / 8, side / 8), column + rng.uniform(-side / 8, side / 8)
        words = (
            f"{number} {rng.choice(('Left', 'Right'))} {rng.choice(('insula', 'periventricular'))}, 0.21 ml"
        )
        lesions.append((LongAxis(rng.randrange(slices), (row, column), end, 9.0), words))
    return lesions


@pytest.mark.parametrize("seed", range(12))
def test_no_two_printed_labels_overlap_at_any_zoom(seed: int) -> None:
    rng = random.Random(seed)
    side, row_mm, column_mm = rng.choice(((256, 0.8, 0.8), (53, 3.6, 3.6), (512, 0.45, 0.5)))
    lesions = scattered(rng, rng.choice((1, 3, 12, 40)), rng.randint(1, 6), side)
    affine = np.diag((5.0, row_mm, column_mm, 1.0))

    axes, words = zip(*lesions, strict=True)
    candidates = [(label, label.partition(",")[0], label.partition(" ")[0]) for label in words]

    printed = choose_labels(axes, candidates, (30, side, side), affine)

    smallest = SCREEN_PIXELS / (side * max(row_mm, column_mm))
    shown = [lesion for lesion in zip(axes, printed, strict=True) if lesion[1]]
    for zoom, pair in product((1.0, 1.3, 4.0), combinations(shown, 2)):
        assert not boxes_overlap(*pair, zoom * smallest * row_mm, zoom * smallest * column_mm)
    # The first lesion of every slice is the largest there, and it always has a label.
    first_of_slice = {axis.slice_index: index for index, (axis, _) in reversed(list(enumerate(lesions)))}
    assert all(printed[index] for index in first_of_slice.values())
    assert all(label in labels or not label for label, labels in zip(printed, candidates, strict=True))


def test_a_label_far_from_the_others_is_always_printed() -> None:
    axes = [LongAxis(0, (row, 20.0), (row, 30.0), 10.0) for row in range(10, 250, 30)]
    labels = [f"{number} Left frontal, 1.2 ml" for number in range(len(axes))]

    chosen = choose_labels(
        axes, [(label, "short") for label in labels], (1, 256, 256), np.diag((5.0, 0.8, 0.8, 1.0))
    )

    assert list(chosen) == labels


def test_two_lesions_at_one_height_get_shorter_labels_before_none() -> None:
    axes = [LongAxis(0, (100.0, column), (100.0, column + 10), 8.0) for column in (50, 130, 133)]
    candidates = [
        (f"{number} Right periventricular, 1.2 ml", f"{number} Right periventricular", str(number))
        for number in (1, 2, 3)
    ]

    chosen = choose_labels(axes, candidates, (1, 256, 256), np.diag((5.0, 0.8, 0.8, 1.0)))

    assert chosen == ("1", "2 Right periventricular, 1.2 ml", "")


def test_a_lesion_without_room_keeps_its_measurement_and_is_marked_by_two_points(tmp_path: Path) -> None:
    side_by_side = (Blob((20, 10, 0), (6, 6, 5)), Blob((-4, 10, 0), (5, 5, 5)), Blob((20, -30, 0), (4, 4, 5)))
    study = answered_study(tmp_path, roles=("flair",), lesions=side_by_side)

    results = build_answer(study.context, study.volume, study.result, ())
    verify_answer(results, study.context, study.volume, study.result)

    (data,) = (item.data for item in results if item.kind == "sr")
    report = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
    graphics = [item.GraphicType for item in walk(report) if item.get("ValueType") == "SCOORD"]
    assert graphics == ["POLYLINE", "MULTIPOINT", "POLYLINE"]


def walk(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return a content item and all items below it."""
    return [item, *(below for child in item.get("ContentSequence", []) for below in walk(child))]
