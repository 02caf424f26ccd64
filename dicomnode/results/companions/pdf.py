"""Pages as a PDF.

A picture of each page, and under it the same words as text that can be searched, copied and read aloud.

The letters of the text layer have no shape (a Type 3 font of empty glyphs), so it needs no embedded font
whatever the script is, and what is extracted is exactly what was written (ISO 32000-1: 9.6.5 Type 3 fonts,
9.10.3 ToUnicode).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

POINTS_PER_INCH = 72.0
_CODES = 256
# Of zlib: nine takes three times as long for 4 % fewer bytes.
_COMPRESSION = 6
# From the first to the last letter of Hebrew, Arabic and its supplements and presentation forms, with what
# stands between them.
_LETTER = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]"
_RIGHT_TO_LEFT = re.compile(f"{_LETTER}(?:[^\\w=]*{_LETTER})*")


@dataclass(frozen=True)
class TextLine:
    """A line of the text layer.

    Where its baseline begins (pixels of the page's picture, from the top left), its height and words.
    """

    left: float
    baseline: float
    size: float
    text: str


@dataclass(frozen=True, eq=False)
class PageImage:
    """A page: its RGB pixels, and the words on it."""

    image: Image.Image
    lines: list[TextLine]


def write_pdf(pages: Sequence[PageImage], pixels_per_inch: float, title: str, created: str) -> bytes:
    """Return a PDF.

    Parameters
    ----------
    title
        No patient data; written as UTF-16 (7.9.2.2 Text String).
    created
        Date as PDF writes it: D:YYYYMMDDHHmmSS.
    """
    scale = POINTS_PER_INCH / pixels_per_inch
    letters = sorted({letter for page in pages for line in page.lines for letter in line.text})
    fonts = [letters[start : start + _CODES] for start in range(0, len(letters), _CODES)] or [[" "]]
    # Objects: catalogue, list of pages, three for every page, three for every font, information.
    first_font = 3 + 3 * len(pages)
    resources = " ".join(f"/F{number} {first_font + 3 * number} 0 R" for number in range(len(fonts)))
    first_of_page = [3 + 3 * number for number in range(len(pages))]
    kids = " ".join(f"{number} 0 R" for number in first_of_page)
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /DisplayDocTitle true >> >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode("ascii"),
    ]
    for first, page in zip(first_of_page, pages, strict=True):
        width, height = (f"{side * scale:.2f}" for side in page.image.size)
        text_layer = _text_layer(page, scale, fonts)
        bodies += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {first + 1} 0 R "
            f"/Resources << /XObject << /Page {first + 2} 0 R >> /Font << {resources} >> >> >>".encode(
                "ascii"
            ),
            _stream(b"", f"q {width} 0 0 {height} 0 0 cm /Page Do Q\n{text_layer}".encode("ascii")),
            _picture(page.image),
        ]
    bodies += [body for number, font in enumerate(fonts) for body in _font(first_font + 3 * number, font)]
    text = title.encode("utf-16-be").hex()
    bodies.append(
        f"<< /Title <feff{text}> /Producer (dicomnode) /CreationDate ({created}) >>".encode("ascii")
    )
    return _assemble(bodies)


def _text_layer(page: PageImage, scale: float, fonts: Sequence[Sequence[str]]) -> str:
    """Return the content that places every line; rendering mode 3 draws nothing (9.3.6)."""
    code_of = {
        letter: (number, code) for number, font in enumerate(fonts) for code, letter in enumerate(font)
    }
    placed = []
    for line in page.lines:
        words = as_seen(line.text)
        text_operators = "".join(
            f"/F{number} {line.size * scale:.2f} Tf <{codes}> Tj " for number, codes in _runs(words, code_of)
        )
        bottom = (page.image.height - line.baseline) * scale
        placed.append(f"1 0 0 1 {line.left * scale:.2f} {bottom:.2f} Tm {text_operators}")
    return "BT 3 Tr\n" + "\n".join(placed) + "\nET"


def as_seen(text: str) -> str:
    """Return text as it is seen from left to right.

    PDF shows glyphs in that order, and readers turn right-to-left scripts back.

    >>> as_seen("A=\u05d0^\u05d1") == "A=\u05d1^\u05d0"
    True
    """
    return _RIGHT_TO_LEFT.sub(lambda run: run.group()[::-1], text)


def _runs(text: str, code_of: dict[str, tuple[int, int]]) -> Iterator[tuple[int, str]]:
    """Give (font, codes in hexadecimal) of the pieces of a text that one font has."""
    run: list[int] = []
    font = 0
    for letter in text:
        number, code = code_of[letter]
        if run and number != font:
            yield font, bytes(run).hex()
            run = []
        font = number
        run.append(code)
    if run:
        yield font, bytes(run).hex()


def _font(first: int, letters: Sequence[str]) -> Iterator[bytes]:
    """Give the three objects of a font, numbered from `first`.

    The font, its one empty glyph, and what its codes mean.
    """
    last = len(letters) - 1
    differences = " ".join(["/g"] * len(letters))
    yield (
        "<< /Type /Font /Subtype /Type3 /FontBBox [0 0 500 1000] "
        f"/FontMatrix [0.001 0 0 0.001 0 0] /CharProcs << /g {first + 1} 0 R >> "
        f"/Encoding << /Type /Encoding /Differences [0 {differences}] >> /FirstChar 0 /LastChar {last} "
        f"/Widths [{' '.join(['500'] * len(letters))}] /Resources << >> /ToUnicode {first + 2} 0 R >>"
    ).encode("ascii")
    yield _stream(b"", b"500 0 0 0 500 1000 d1")
    yield _stream(b"", _to_unicode(letters))


def _to_unicode(letters: Sequence[str]) -> bytes:
    """Return the CMap from codes to UTF-16 (9.10.3); at most 100 entries stand in one block."""
    entries = [f"<{code:02x}> <{letter.encode('utf-16-be').hex()}>" for code, letter in enumerate(letters)]
    blocks = [entries[start : start + 100] for start in range(0, len(entries), 100)]
    mapped = "\n".join(f"{len(block)} beginbfchar\n" + "\n".join(block) + "\nendbfchar" for block in blocks)
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /Words def /CMapType 2 def\n"
        f"1 begincodespacerange <00> <ff> endcodespacerange\n{mapped}\nendcmap end end"
    ).encode("ascii")


def _picture(page: Image.Image) -> bytes:
    entries = (
        f"/Type /XObject /Subtype /Image /Width {page.width} /Height {page.height} "
        "/ColorSpace /DeviceRGB /BitsPerComponent 8"
    )
    return _stream(entries.encode("ascii"), page.convert("RGB").tobytes())


def _stream(entries: bytes, data: bytes) -> bytes:
    packed = zlib.compress(data, _COMPRESSION)
    return b"<< %s /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (entries, len(packed), packed)


def _assemble(bodies: Iterable[bytes]) -> bytes:
    """Return the file: objects numbered from 1, the last of them the document information.

    The cross-reference table says where each begins (7.5.4).
    """
    file = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(bodies, start=1):
        offsets.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    file += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    file += b"trailer << /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(offsets) + 1,
        len(offsets),
        start,
    )
    return bytes(file)
