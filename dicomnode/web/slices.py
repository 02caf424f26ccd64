"""One slice of a case as PNG: grey image, outlines and fill of the lesions, probability as a heat.

Every plane is shown as a radiologist expects it: the patient's right on the left of axial and coronal slices.
"""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from dicomnode.web.prepared import Case
from pipeline.records import Array

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_LONGEST_SIDE = 512
_GOLDEN_RATIO = 0.618033988749895
_FAINTEST = 0.05


@dataclass(frozen=True)
class Look:
    """How a slice is drawn: grey values of black and white, outlines, opacity 0..1 of fill and heat."""

    low: float
    high: float
    outlines: bool
    opacity: float
    probability: bool


def slice_count(case: Case, plane: Plane) -> int:
    """Return how many slices a plane has."""
    return case.shape[PLANES.index(plane)]


def draw_slice(case: Case, role: str, plane: Plane, index: int, look: Look) -> bytes:
    """Return a slice of an image as PNG, its longer side 512 pixels."""
    pixels = cut(case.array(role), plane, index).astype(np.float32)
    grey = np.clip((pixels - look.low) / max(look.high - look.low, 1e-6), 0, 1)
    size = _picture_size(case, plane)
    picture = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    colored = np.repeat(np.asarray(picture)[..., np.newaxis], 3, axis=-1).astype(np.float32)
    if look.probability and case.has_probability:
        heat = _stretch(cut(case.array("probability"), plane, index).astype(np.float32), size)
        _blend(colored, np.where(heat > _FAINTEST, heat, 0) * look.opacity, np.array([255.0, 80.0, 0.0]))
    labels = cut(case.array("labels"), plane, index)
    if labels.any():
        _draw_labels(colored, _stretch(labels.astype(np.int32), size), look)
    buffer = io.BytesIO()
    Image.fromarray(colored.astype(np.uint8)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def cut(array: Array, plane: Plane, index: int) -> Array:
    """Return a plane as (row, column), the head or the face up."""
    if plane == "axial":
        return np.asarray(array[index])
    # Axis 0 runs to the head, so what stands upright is turned over.
    return np.asarray(array[::-1, index] if plane == "coronal" else array[::-1, :, index])


def lesion_color(label: int) -> tuple[int, int, int]:
    """Return a colour that differs well from that of the neighbouring numbers."""
    red, green, blue = colorsys.hsv_to_rgb(((label - 1) * _GOLDEN_RATIO) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def outline_of(labels: Array) -> Array:
    """Return (row, column) bool: pixels of a label next to one of another value, inside the label."""
    padded = np.pad(labels, 1)
    middle = padded[1:-1, 1:-1]
    differs = np.zeros(labels.shape, bool)
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):
        differs |= padded[row : row + labels.shape[0], column : column + labels.shape[1]] != middle
    return differs & (labels > 0)


def _draw_labels(colored: Array, labels: Array, look: Look) -> None:
    edges = outline_of(labels)
    for label in np.unique(labels[labels > 0]).tolist():
        color = np.array(lesion_color(label), np.float32)
        if look.opacity and not look.probability:
            _blend(colored, (labels == label) * np.float32(look.opacity), color)
        if look.outlines:
            colored[edges & (labels == label)] = color


def _blend(colored: Array, weight: Array, color: Array) -> None:
    colored += weight[..., np.newaxis] * (color - colored)


def _stretch(array: Array, size: tuple[int, int]) -> Array:
    """Return an array (row, column) at the size (width, height) of the picture, nearest neighbour."""
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.NEAREST))


def _picture_size(case: Case, plane: Plane) -> tuple[int, int]:
    """Return (width, height) in pixels, in the proportions of the patient."""
    heights = {"axial": 1, "coronal": 0, "sagittal": 0}
    widths = {"axial": 2, "coronal": 2, "sagittal": 1}
    height_mm = case.shape[heights[plane]] * case.spacing_mm[heights[plane]]
    width_mm = case.shape[widths[plane]] * case.spacing_mm[widths[plane]]
    scale = _LONGEST_SIDE / max(height_mm, width_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
