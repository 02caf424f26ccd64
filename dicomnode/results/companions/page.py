"""The pages of a PDF report: whose it is, the impression, the table of lesions, the pictures, the technique.

Drawn once as pixels, with the same words kept as text lines for the layer that can be searched. Every width
is measured, so nothing is written over something else; what does not fit goes to the next page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image, ImageDraw

from dicomnode.results.companions.lettering import draw_text, fit_size, measure_text, wrap_text
from dicomnode.results.companions.pdf import PageImage, TextLine
from dicomnode.results.words.language import phrase
from dicomnode.settings.config import Language

Paper = Literal["A4", "Letter"]
PIXELS_PER_INCH = 150
SIZES: Mapping[Paper, tuple[int, int]] = {"A4": (1240, 1754), "Letter": (1275, 1650)}
"""Width and height in pixels."""
_MARGIN = 80
_BODY = 22
_SMALL = 17
_LARGE = 28
_FOOT = 62
_GAP = 28
"""Between two columns of the table."""
_SWATCH = 20
_LEAST_PICTURE = 420
"""A picture that would be lower than this goes to a page of its own."""
_DARK, _GREY, _WHITE = (20, 20, 20), (90, 90, 90), (255, 255, 255)
_BAND = (120, 20, 20)
Color = tuple[int, int, int]


@dataclass(frozen=True)
class PageContent:
    """What the pages say.

    Attributes
    ----------
    identity
        Whose page it is: each value with its head; the first is written larger.
    sentences
        The impression first.
    table
        Lesions; the first row holds the heads.
    colors
        Of the lesions in the table, row by row without the heads: the colours of their outlines.
    """

    headline: str
    sentences: Sequence[str]
    identity: Sequence[tuple[str, str]] = ()
    language: Language = "en"
    table: Sequence[Sequence[str]] = ()
    small_print: Sequence[str] = ()
    colors: Sequence[Color] = ()


@dataclass
class _Sheet:
    """Pages in the making: a pen that moves down, and the words that it wrote."""

    size: tuple[int, int]
    language: Language = "en"
    pages: list[PageImage] = field(default_factory=list)
    top: float = 0

    def __post_init__(self) -> None:
        self.turn_over()

    @property
    def width(self) -> int:
        """Pixels between the margins."""
        return self.size[0] - 2 * _MARGIN

    @property
    def room(self) -> float:
        """Pixels from the pen down to the foot of the page."""
        return self.size[1] - _FOOT - 10 - self.top

    @property
    def pen(self) -> ImageDraw.ImageDraw:
        """What draws on the last page."""
        return ImageDraw.Draw(self.pages[-1].image)

    def turn_over(self) -> None:
        """Begin a page, with the warning at its head and at its foot."""
        self.pages.append(PageImage(Image.new("RGB", self.size, _WHITE), []))
        warning, *others = (
            phrase(f"limits.{row}", self.language) for row in ("warning", "research", "unverified")
        )
        foot = " ".join([warning, *others])
        for top, text, height in ((0, warning, 52), (self.size[1] - _FOOT + 10, foot, 52)):
            self.pen.rectangle((0, top, self.size[0], top + height), fill=_BAND)
            self.top = top + 10
            self.write(text, fit_size(text, 28, self.width), fill=_WHITE)
        self.top = 72

    def need(self, height: float) -> None:
        """Turn the page where less than `height` pixels are left."""
        if self.room < height:
            self.turn_over()

    def write(self, text: str, size: int = _BODY, left: float = _MARGIN, fill: Color = _DARK) -> None:
        """Write one line at the pen without moving it; text that cannot be drawn stays in the text layer."""
        draw_text(self.pen, (left, self.top), text, size, fill)
        self.pages[-1].lines.append(TextLine(left, self.top + size, size, text))

    def write_wrapped(self, text: str, size: int = _BODY) -> None:
        """Write a paragraph and move the pen below it."""
        for line in wrap_text(text, size, self.width):
            self.need(_line_height(size))
            self.write(line, size)
            self.top += _line_height(size)


def draw_pages(content: PageContent, picture: Image.Image | None, paper: Paper = "A4") -> list[PageImage]:
    """Return the pages as RGB pixels with their words.

    Parameters
    ----------
    picture
        What is shown of the images; None when there is nothing to show.
    """
    sheet = _Sheet(SIZES[paper], content.language)
    sheet.write(content.headline, fit_size(content.headline, 36, sheet.width))
    sheet.top += 60
    _write_identity(sheet, content.identity)
    for sentence in content.sentences:
        sheet.write_wrapped(sentence)
    sheet.top += 12
    _write_table(sheet, content.table, content.colors)
    small_height = sum(
        len(wrap_text(text, _SMALL, sheet.width)) * _line_height(_SMALL) for text in content.small_print
    )
    if picture is not None:
        _paste(sheet, picture, small_height)
    for text in content.small_print:
        sheet.write_wrapped(text, _SMALL)
    return sheet.pages


def _line_height(size: int) -> int:
    return round(1.45 * size)


def _write_identity(sheet: _Sheet, identity: Sequence[tuple[str, str]]) -> None:
    # A line of its own: text readers turn scripts that run from the right line by line.
    left = _MARGIN + 32 + max((measure_text(head, _BODY) for head, _ in identity), default=0)
    for number, (head, value) in enumerate(identity):
        size = _BODY if number else _LARGE
        sheet.write(head)
        # Never wrapped, so that a value is one line of the text layer.
        sheet.write(value, fit_size(value, size, sheet.size[0] - _MARGIN - left), left)
        sheet.top += _line_height(size)
    sheet.top += 16


def _write_table(sheet: _Sheet, table: Sequence[Sequence[str]], colors: Sequence[Color]) -> None:
    """Write the table; each row of a lesion begins with a square in the colour of its outline."""
    if not table:
        return
    indent = _SWATCH + 12 if colors else 0
    widths = _column_widths(table, sheet.width - indent)
    for number, row in enumerate(table):
        cells = [wrap_text(cell, _BODY, width) for cell, width in zip(row, widths, strict=True)]
        height = _line_height(_BODY) * max(map(len, cells))
        sheet.need(height)
        if number and colors:
            corner = (_MARGIN, sheet.top + 4)
            sheet.pen.rectangle(
                (*corner, corner[0] + _SWATCH, corner[1] + _SWATCH), fill=colors[number - 1], outline=_DARK
            )
        row_top, left = sheet.top, float(_MARGIN + indent)
        for lines, width in zip(cells, widths, strict=True):
            for line_number, line in enumerate(lines):
                sheet.top = row_top + line_number * _line_height(_BODY)
                sheet.write(line, left=left, fill=_DARK if number else _GREY)
            left += width + _GAP
        sheet.top = row_top + height
    sheet.top += 16


def _column_widths(table: Sequence[Sequence[str]], width: float) -> list[float]:
    """Return how wide each column is in pixels: as wide as its widest cell.

    The widest columns give way where that is too much.
    """
    widths = [max(measure_text(cell, _BODY) for cell in column) for column in zip(*table, strict=True)]
    room = width - _GAP * (len(widths) - 1)
    while sum(widths) > room:
        widest = max(widths)
        narrower = max((entry for entry in widths if entry < widest), default=0.0)
        count = widths.count(widest)
        share = max(narrower, widest - (sum(widths) - room) / count)
        widths = [share if entry == widest else entry for entry in widths]
    return widths


def _paste(sheet: _Sheet, picture: Image.Image, small_height: float) -> None:
    """Put the picture above the small print, on the next page where it would become too small."""
    room = sheet.room - small_height - 12
    if room < _LEAST_PICTURE:
        sheet.turn_over()
        room = max(sheet.room - small_height - 12, _LEAST_PICTURE)
    scale = min(sheet.width / picture.width, room / picture.height)
    smaller = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
    )
    sheet.pages[-1].image.paste(smaller, (_MARGIN + (sheet.width - smaller.width) // 2, round(sheet.top)))
    sheet.top += smaller.height + 12
