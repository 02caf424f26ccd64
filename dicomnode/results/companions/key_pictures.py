"""The pictures of an answer, before they become objects.

The montage, and each key slice as it was acquired, with its outlines.

They tell nobody's name: what identifies the patient stands in the header alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dicomnode.results.companions.lettering import draw_text
from dicomnode.results.companions.preview import (
    BANNER,
    Plane,
    add_banner,
    choose_key_slices,
    draw_montage,
    draw_plane,
    window,
)
from dicomnode.results.words.language import phrase
from dicomnode.results.words.sentences import wrap_words
from dicomnode.settings.config import Language
from pipeline.geometry import Affine, spacing_mm
from pipeline.records import PipelineResult, Volume

SIDE = 768
"""Width of every picture in pixels; the height is a banner more."""
_SIDES = (("R", "L"), ("A", "P"), ("F", "H"))


@dataclass(frozen=True, eq=False)
class KeyPicture:
    """One picture, RGB, (SIDE + banner) x SIDE, and the slice of the reference volume that it shows.

    The slice is None for a picture of several.
    """

    image: Image.Image
    slice_index: int | None
    caption: str


def draw_key_pictures(volume: Volume, result: PipelineResult, language: Language) -> tuple[KeyPicture, ...]:
    """Return the montage of three planes, then the key slices in the order of the volume.

    A result without lesions has the montage alone.
    """
    montage = Image.new("RGB", (SIDE, SIDE))
    montage.paste(_fit(draw_montage(volume, result, language)), (0, 0))
    title = phrase("picture.montage", language)
    pictures = [KeyPicture(add_banner(montage, result, language), None, title)]
    if not result.lesions:
        return tuple(pictures)
    grey = window(volume.array)
    left, right = direction_letters(volume.affine, axis=2)
    _, by_row, by_column = spacing_mm(volume.affine)
    for index in sorted(choose_key_slices(result.labels.array)):
        labels = result.labels.array[index]
        label_list = ", ".join(str(label) for label in np.unique(labels[labels > 0]))
        caption = phrase("picture.slice", language, number=index + 1, count=len(grey), lesions=label_list)
        plane = Plane(grey[index], labels, (by_row, by_column), caption, left, right)
        pictures.append(KeyPicture(add_banner(draw_plane(plane, SIDE), result, language), index, caption))
    return tuple(pictures)


def draw_notice(sentences: tuple[str, ...], language: Language) -> KeyPicture:
    """Return a picture of words alone: the answer to a study that has no other picture."""
    image = Image.new("RGB", (SIDE, SIDE + BANNER))
    pen = ImageDraw.Draw(image)
    lines = [line for sentence in sentences for line in (*wrap_words(sentence, 62), "")]
    for number, line in enumerate(lines[:22]):
        draw_text(pen, (30, 30 + 33 * number), line, 22, (230, 230, 230))
    draw_text(pen, (8, SIDE + 4), phrase("limits.warning", language), 14, (255, 220, 0))
    return KeyPicture(image, None, phrase("picture.notice", language))


def _fit(picture: Image.Image) -> Image.Image:
    scale = min(SIDE / picture.width, SIDE / picture.height)
    return picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
    )


def direction_letters(affine: Affine, axis: int) -> tuple[str, str]:
    """Return the sides of the patient at the beginning and at the end of an axis.

    The axis counts by its largest component (LPS).
    """
    direction = affine[:3, axis]
    main = int(np.abs(direction).argmax())
    low, high = _SIDES[main]
    return (low, high) if direction[main] > 0 else (high, low)
