"""Which labels have room next to their lines, so that no two are printed over each other.

Geometry of OHIF 3.13 (`DICOMSRDisplayTool`): the label begins right of the line's rightmost end, at the
height of its middle, and has a fixed size on the screen whatever the zoom. Two labels that are apart at one
scale are therefore apart at every larger one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.geometry import Affine, spacing_mm
from pipeline.records import LongAxis

SCREEN_PIXELS = 640
"""Pixels of the image's longer side at the smallest scale: two viewports on a screen of 1920 columns."""
_LINES = 2
_LINE_PIXELS = 18
_LETTER_PIXELS = 8.5
_MEASUREMENT_LETTERS = len("Long axis: 123.45 mm")
_GAP_PIXELS = 8


@dataclass(frozen=True)
class LabelBox:
    """Where a label is printed: the slice, and (left, top, right, bottom) in pixels of the screen."""

    slice_index: int
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: LabelBox) -> bool:
        """Return whether two labels are printed over each other."""
        return (
            self.slice_index == other.slice_index
            and self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def choose_labels(
    axes: Sequence[LongAxis], candidates: Sequence[Sequence[str]], shape: Sequence[int], affine: Affine
) -> tuple[str, ...]:
    """Return each lesion's label: the longest that overlaps no other one; empty where none has room.

    As many lesions as possible get their shortest label, in order; then each is lengthened as far as it goes.

    Parameters
    ----------
    axes
        The line of each lesion, most important first.
    candidates
        The labels of each lesion, longest first.
    shape
        (slice, row, column) of the grid on which the lines lie.
    """
    boxes = [
        [_box_of(axis, label, shape, affine) for label in labels]
        for axis, labels in zip(axes, candidates, strict=True)
    ]
    printed: dict[int, LabelBox] = {}
    for number, sizes in enumerate(boxes):
        if not _overlaps_any(sizes[-1], printed, number):
            printed[number] = sizes[-1]
    chosen = [""] * len(boxes)
    for number in printed:
        free = [k for k, box in enumerate(boxes[number]) if not _overlaps_any(box, printed, number)]
        printed[number], chosen[number] = boxes[number][free[0]], candidates[number][free[0]]
    return tuple(chosen)


def _overlaps_any(box: LabelBox, printed: Mapping[int, LabelBox], number: int) -> bool:
    """Return whether a lesion's label would overlap that of another lesion."""
    return any(other.overlaps(box) for key, other in printed.items() if key != number)


def _box_of(axis: LongAxis, label: str, shape: Sequence[int], affine: Affine) -> LabelBox:
    _, row_mm, column_mm = spacing_mm(affine)
    pixels_per_mm = SCREEN_PIXELS / max(shape[1] * row_mm, shape[2] * column_mm)
    left = max(axis.start[1], axis.end[1]) * column_mm * pixels_per_mm
    top = (axis.start[0] + axis.end[0]) / 2 * row_mm * pixels_per_mm
    # The label with a colon in the first line, the measurement in the second one.
    width = _LETTER_PIXELS * max(len(label) + 2, _MEASUREMENT_LETTERS)
    height = _LINES * _LINE_PIXELS
    return LabelBox(axis.slice_index, left, top, left + width + _GAP_PIXELS, top + height + _GAP_PIXELS)
