"""Text in pixels, in any script that a patient's name comes in.

This module says which font draws a text, and whether it can be drawn at all.

A text that no font can draw is not drawn as boxes: whoever asks gets None and says where the text is to be
found instead.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.resources import as_file, files

import pymupdf_fonts
from PIL import Image, ImageDraw, ImageFont, features

Font = ImageFont.FreeTypeFont

NOT_DRAWN = "(no font here has these letters; see the patient name in the image header)"
_SMALLEST = 8
# Not a character: what a font draws for it, it draws for everything that it lacks.
_MISSING = "\U0010ffff"
# Blocks that run from right to left: Hebrew, Arabic and its supplements and presentation forms.
_RIGHT_TO_LEFT = ((0x0590, 0x08FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFF))


@cache
def load_font(size: int, *, bold: bool = False) -> Font:
    """Return FiraGO (OFL): Latin, Greek, Cyrillic, Hebrew, Arabic, Thai."""
    return ImageFont.truetype(io.BytesIO(pymupdf_fonts.myfont("figbo" if bold else "figo")), size)


@cache
def _load_cjk(size: int) -> Font:
    """Return Noto Sans CJK (OFL): Chinese, Japanese, Korean."""
    with as_file(files("manimgx_fonts_cjk") / "NotoSansCJK-VF.otf.ttc") as path:
        font = ImageFont.truetype(io.BytesIO(path.read_bytes()), size)
    font.set_variation_by_name("Regular")
    return font


def choose_font(text: str, size: int) -> Font | None:
    """Return a font that has every character of a text, or None when none of ours has.

    The result is also None where the script cannot be laid out here.
    """
    if _runs_from_right(text) and not features.check("fribidi"):
        # Pillow lays out right-to-left scripts with the system's FriBiDi only; without it letters would stand
        # in the wrong order.
        return None
    return next((font for font in (load_font(size), _load_cjk(size)) if _has_all(font, text)), None)


def draw_text(
    pen: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> bool:
    """Draw a text run by run, each in a font that has it.

    Return False, and draw `NOT_DRAWN` instead, when a part of it cannot be drawn.
    """
    runs = [(run, choose_font(run, size)) for run in _split_runs(text, size)]
    left, baseline = position[0], position[1] + size
    if any(font is None for _, font in runs):
        pen.text((left, baseline), NOT_DRAWN, font=load_font(size), fill=fill, anchor="ls")
        return False
    for run, font in runs:
        pen.text((left, baseline), run, font=font, fill=fill, anchor="ls")
        left += pen.textlength(run, font=font)
    return True


def measure_text(text: str, size: int) -> float:
    """Return how wide a text is drawn, in pixels; text that cannot be drawn counts as what stands for it."""
    runs = [(run, choose_font(run, size)) for run in _split_runs(text, size)]
    if any(font is None for _, font in runs):
        return load_font(size).getlength(NOT_DRAWN)
    return sum(font.getlength(run) for run, font in runs if font is not None)


def fit_size(text: str, size: int, width: float) -> int:
    """Return the largest letter size, at most `size`, at which a text is no wider than `width` pixels."""
    while size > _SMALLEST and measure_text(text, size) > width:
        size -= 1
    return size


def wrap_text(text: str, size: int, width: float) -> list[str]:
    """Return the lines of a paragraph, none wider than `width` pixels; a longer word is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure_text(longer, size) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and measure_text(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _split_runs(text: str, size: int) -> list[str]:
    """Cut a text where the main font ends and where it begins again.

    A script that joins its letters is never cut within.
    """
    runs: list[str] = []
    main = load_font(size)
    for letter in text:
        if runs and _has_all(main, letter) == _has_all(main, runs[-1][-1]):
            runs[-1] += letter
        else:
            runs.append(letter)
    return runs


def _runs_from_right(text: str) -> bool:
    return any(first <= ord(letter) <= last for letter in text for first, last in _RIGHT_TO_LEFT)


def _has_all(font: Font, text: str) -> bool:
    return all(_has(font, letter) for letter in set(text))


@cache
def _has(font: Font, letter: str) -> bool:
    """Return whether a font has a character: what it draws differs from what it draws for none."""
    return letter.isspace() or _shape(font, letter) != _shape(font, _MISSING)


def _shape(font: Font, letter: str) -> bytes:
    box = (font.size * 3, font.size * 3)
    image = Image.new("L", (int(box[0]), int(box[1])))
    ImageDraw.Draw(image).text((font.size, font.size), letter, font=font, fill=255)
    return image.tobytes()
