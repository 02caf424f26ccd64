"""A picture of the answer.

Three planes and key slices with the lesions' outlines, the warning burned into the pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dicomnode.results.companions.lettering import draw_text, fit_size
from dicomnode.results.segments import segment_color
from dicomnode.results.words.language import phrase, write_ml
from dicomnode.settings.config import Language
from pipeline.geometry import orientation_of, reorient, spacing_mm
from pipeline.records import Array, PipelineResult, Volume

_TILE = 320
"""Side of one picture in pixels."""
_COLUMNS = 3
_KEY_SLICES = 6
BANNER = 28
_YELLOW = (255, 220, 0)
_GREY = (200, 200, 200)


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice to draw.

    Grey values 0..1, labels, (row, column) size in mm, and what is written in its corners.
    """

    image: Array
    labels: Array
    pixel_mm: tuple[float, float]
    caption: str
    left_side: str
    right_side: str


def montage_png(volume: Volume, result: PipelineResult, language: Language = "en") -> bytes:
    """Return a PNG of the reference volume with outlined lesions; the same input gives the same bytes."""
    buffer = io.BytesIO()
    add_banner(draw_montage(volume, result, language), result, language).save(buffer, format="PNG")
    return buffer.getvalue()


def draw_montage(volume: Volume, result: PipelineResult, language: Language = "en") -> Image.Image:
    """Return three planes and the key slices with outlined lesions.

    Every plane is shown as a radiologist expects it: the patient's right on the left of axial and coronal
    pictures.
    """
    orientation = orientation_of(volume.affine)
    upright, labels = reorient(volume, orientation), reorient(result.labels, orientation)
    grey = window(upright.array)
    planes = [*_three_planes(grey, labels, language), *_key_slices(grey, labels, language)]
    rows = -(-len(planes) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * _TILE))
    for number, plane in enumerate(planes):
        sheet.paste(draw_plane(plane, _TILE), (number % _COLUMNS * _TILE, number // _COLUMNS * _TILE))
    return sheet


def add_banner(picture: Image.Image, result: PipelineResult, language: Language) -> Image.Image:
    """Return a picture with the warning, the network and the count of lesions in its pixels, below it."""
    canvas = Image.new("RGB", (picture.width, picture.height + BANNER))
    canvas.paste(picture, (0, 0))
    network = f"{result.models[0].name} {result.models[0].version}."
    words = "  ".join([phrase("limits.warning", language), network, _count(result, language)])
    pen = ImageDraw.Draw(canvas)
    draw_text(pen, (8, picture.height + 5), words, fit_size(words, 14, picture.width - 16), _YELLOW)
    return canvas


def outline(labels: Array) -> Array:
    """Return (row, column) bool: pixels of a label with a neighbour of another value.

    The picture's rim counts as outside.
    """
    padded = np.pad(labels, 1)
    neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1] for axis in (0, 1) for step in (1, -1)]
    edges: Array = (labels > 0) & np.any([neighbour != labels for neighbour in neighbours], axis=0)
    return edges


def choose_key_slices(labels: Array) -> list[int]:
    """Return up to six slices (axis 0): where each lesion is largest, biggest lesions first.

    Evenly spread when there is none.
    """
    if not labels.any():
        return [int(index) for index in np.linspace(0, len(labels) - 1, _KEY_SLICES + 2)[1:-1]]
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    slice_numbers: list[int] = []
    for label in np.argsort(-sizes, kind="stable"):
        best = int((labels == label).sum(axis=(1, 2)).argmax())
        if sizes[label] and best not in slice_numbers and len(slice_numbers) < _KEY_SLICES:
            slice_numbers.append(best)
    return sorted(slice_numbers, reverse=True)


def _three_planes(grey: Array, labels: Volume, language: Language) -> list[Plane]:
    voxels = np.argwhere(labels.array == 1)
    if len(voxels):
        head, back, left = (int(index) for index in np.rint(voxels.mean(axis=0)))
    else:
        head, back, left = (size // 2 for size in grey.shape)
    by_head, by_back, by_left = spacing_mm(labels.affine)
    coronal, sagittal = (phrase(f"series.{plane}", language) for plane in ("coronal", "sagittal"))
    # Axis 0 runs to the head, so what stands upright is turned over.
    return [
        _axial(grey, labels, head, language),
        Plane(grey[::-1, back], labels.array[::-1, back], (by_head, by_left), coronal, "R", "L"),
        Plane(grey[::-1, :, left], labels.array[::-1, :, left], (by_head, by_back), sagittal, "A", "P"),
    ]


def _key_slices(grey: Array, labels: Volume, language: Language) -> list[Plane]:
    return [_axial(grey, labels, index, language) for index in choose_key_slices(labels.array)]


def _axial(grey: Array, labels: Volume, index: int, language: Language) -> Plane:
    _, by_back, by_left = spacing_mm(labels.affine)
    caption = f"{phrase('series.axial', language)} {index + 1}/{len(grey)}"
    return Plane(grey[index], labels.array[index], (by_back, by_left), caption, "R", "L")


def window(array: Array) -> Array:
    """Return grey values 0..1: black and white are the 1st and the 99.5th percentile."""
    low, high = np.percentile(array, (1, 99.5))
    grey: Array = np.clip((array - low) / max(float(high - low), 1e-6), 0, 1)
    return grey


def draw_plane(plane: Plane, side: int) -> Image.Image:
    """Return a square picture of a plane, `side` pixels wide, with the outlines of its labels."""
    height_mm, width_mm = (size * step for size, step in zip(plane.image.shape, plane.pixel_mm, strict=True))
    scale = side / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    grey = Image.fromarray((plane.image * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    drawn = np.asarray(Image.fromarray(plane.labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    colored = np.stack([np.asarray(grey)] * 3, axis=-1)
    edges = outline(drawn)
    for label in np.unique(drawn[edges]):
        colored[edges & (drawn == label)] = segment_color(int(label))
    tile = Image.new("RGB", (side, side))
    tile.paste(Image.fromarray(colored), ((side - size[0]) // 2, (side - size[1]) // 2))
    _write_corners(
        tile,
        ((6, 4), plane.caption),
        ((6, side // 2), plane.left_side),
        ((side - 16, side // 2), plane.right_side),
    )
    return tile


def _write_corners(tile: Image.Image, *words: tuple[tuple[int, int], str]) -> None:
    pen = ImageDraw.Draw(tile)
    for position, text in words:
        draw_text(pen, position, text, 13, _GREY)


def _count(result: PipelineResult, language: Language) -> str:
    volume_ml = sum(item.value for item in result.measurements if item.name == "total_volume")
    count = len(result.lesions)
    row = {0: "none", 1: "one"}.get(count, "many")
    return phrase(f"picture.count-{row}", language, count=count, volume=write_ml(volume_ml, language))
