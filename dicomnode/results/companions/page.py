"""The one page of a PDF report: whose it is, what was found, the measurements, the pictures, the warnings.

Drawn once as pixels, with the same words kept as text lines for the layer that can be searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicomnode.results.companions.lettering import draw_text
from dicomnode.results.companions.pdf import TextLine
from dicomnode.results.words.sentences import WARNING, wrap_words

SIZE = (1240, 1754)
"""A4 at 150 pixels an inch."""
_MARGIN = 80
_BODY = 22
_LINE = 31
_NOT_DRAWN = "(no font here has these letters; see the patient name in the image header)"
_IDENTITY = (
    ("Patient ID", "PatientID"),
    ("Birth date", "PatientBirthDate"),
    ("Sex", "PatientSex"),
    ("Accession number", "AccessionNumber"),
    ("Study date", "StudyDate"),
)


@dataclass(frozen=True)
class PageContent:
    """What the page says: headline, findings, a table (first row: its heads), small print."""

    headline: str
    sentences: Sequence[str]
    table: Sequence[Sequence[str]] = ()
    small_print: Sequence[str] = ()


@dataclass
class _Sheet:
    """A page in the making: a pen that moves down, and the words that it wrote."""

    image: Image.Image
    lines: list[TextLine] = field(default_factory=list)
    top: float = 0

    def write(
        self, text: str, size: int = _BODY, left: float = _MARGIN, fill: tuple[int, int, int] = (20, 20, 20)
    ) -> None:
        """Write one line at the pen without moving it; text that cannot be drawn stays in the text layer."""
        if not draw_text(ImageDraw.Draw(self.image), (left, self.top), text, size, fill):
            draw_text(ImageDraw.Draw(self.image), (left, self.top), _NOT_DRAWN, size, fill)
        self.lines.append(TextLine(left, self.top + size, size, text))

    def write_wrapped(self, text: str, size: int = _BODY, width: int = 94) -> None:
        """Write a paragraph and move the pen below it."""
        for line in wrap_words(text, width):
            self.write(line, size)
            self.top += size + 9

    def band(self, text: str) -> None:
        """Write white on a dark band across the page, and move below it."""
        ImageDraw.Draw(self.image).rectangle((0, self.top, SIZE[0], self.top + 52), fill=(120, 20, 20))
        self.top += 10
        self.write(text, 28, fill=(255, 255, 255))
        self.top += 62


def draw_page(
    identity: Dataset, content: PageContent, picture: Image.Image | None
) -> tuple[Image.Image, list[TextLine]]:
    """Return the page as RGB pixels, and its words.

    Parameters
    ----------
    identity
        The patient's and study's attributes, decoded.
    picture
        What is shown of the images; None when there is nothing to show.
    """
    sheet = _Sheet(Image.new("RGB", SIZE, (255, 255, 255)))
    sheet.band(WARNING)
    sheet.write(content.headline, 36)
    sheet.top += 64
    _write_identity(sheet, identity)
    for sentence in content.sentences:
        sheet.write_wrapped(sentence)
    sheet.top += 12
    _write_table(sheet, content.table)
    _paste(
        sheet,
        picture,
        room=SIZE[1] - sheet.top - 64 - 26 * sum(len(wrap_words(text, 118)) for text in content.small_print),
    )
    for text in content.small_print:
        sheet.write_wrapped(text, 17, 118)
    sheet.top = SIZE[1] - 52
    sheet.band(f"{WARNING}. For research use only; not verified by a physician.")
    return sheet.image, sheet.lines


def _write_identity(sheet: _Sheet, identity: Dataset) -> None:
    sheet.write("Patient")
    # A line of its own: text readers turn scripts that run from the right line by line.
    sheet.write(_text(identity, "PatientName") or "(no name)", 28, left=_MARGIN + 240)
    sheet.top += 44
    for word, keyword in _IDENTITY:
        sheet.write(word)
        sheet.write(_text(identity, keyword) or "-", left=_MARGIN + 240)
        sheet.top += _LINE
    sheet.top += 16


def _text(identity: Dataset, keyword: str) -> str:
    """Return an element as one text; several values are those of one text with backslashes."""
    value = identity.get(keyword)
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def _write_table(sheet: _Sheet, table: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(table):
        for column, cell in enumerate(row):
            sheet.write(cell, left=_MARGIN + 270 * column, fill=(90, 90, 90) if number == 0 else (20, 20, 20))
        sheet.top += _LINE
    sheet.top += 16 if table else 0


def _paste(sheet: _Sheet, picture: Image.Image | None, room: float) -> None:
    width = SIZE[0] - 2 * _MARGIN
    if picture is None or room < 200:
        return
    scale = min(width / picture.width, room / picture.height)
    small = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
    )
    sheet.image.paste(small, (_MARGIN + (width - small.width) // 2, round(sheet.top)))
    sheet.top += small.height + 12
