"""A drawing area with axes, ticks and words, on Pillow.

Three plots do not need a plotting library on a node.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = (720, 560)
_LEFT, _TOP, _RIGHT, _BOTTOM = 80, 44, 24, 64
_INK, _FAINT = (30, 30, 30), (225, 225, 225)

Color = tuple[int, int, int]
Span = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A picture that is drawn on in data coordinates; `x` and `y` are the spans that its axes cover."""

    x: Span
    y: Span
    image: Image.Image
    pen: ImageDraw.ImageDraw

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the pixel of a point."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (SIZE[0] - _LEFT - _RIGHT), SIZE[1] - _BOTTOM - up * (
            SIZE[1] - _TOP - _BOTTOM
        )

    def line(
        self, start: tuple[float, float], end: tuple[float, float], color: Color, width: int = 2
    ) -> None:
        """Draw a straight line between two points."""
        self.pen.line((*self.at(*start), *self.at(*end)), fill=color, width=width)

    def dot(self, x: float, y: float, color: Color) -> None:
        """Draw one case."""
        column, row = self.at(x, y)
        self.pen.ellipse((column - 4, row - 4, column + 4, row + 4), outline=color, width=2)

    def note(self, x: float, y: float, text: str, color: Color = _INK) -> None:
        """Write beside a point."""
        column, row = self.at(x, y)
        self.pen.text((column + 6, row - 16), text, fill=color, font=ImageFont.load_default(13))

    def png(self) -> bytes:
        """Return the picture; the same drawing gives the same bytes."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()


def open_chart(
    title: str, x_label: str, y_label: str, x: Span, y: Span, x_names: Sequence[str] = ()
) -> Chart:
    """Return a chart with its axes drawn; `x_names` stand at 1, 2, 3, ... instead of numbers."""
    image = Image.new("RGB", SIZE, (255, 255, 255))
    chart = Chart(x, y, image, ImageDraw.Draw(image))
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    for value in choose_ticks(*y):
        chart.line((x[0], value), (x[1], value), _FAINT, 1)
        column, row = chart.at(x[0], value)
        chart.pen.text((column - 8, row), f"{value:g}", fill=_INK, font=small, anchor="rm")
    names = [(float(number), name) for number, name in enumerate(x_names, start=1)] or [
        (value, f"{value:g}") for value in choose_ticks(*x)
    ]
    for value, name in names:
        column, row = chart.at(value, y[0])
        chart.pen.line((column, row, column, row + 5), fill=_INK)
        chart.pen.text((column, row + 8), name, fill=_INK, font=small, anchor="ma")
    chart.pen.rectangle((*chart.at(x[0], y[1]), *chart.at(x[1], y[0])), outline=_INK)
    chart.pen.text((SIZE[0] / 2, 12), title, fill=_INK, font=font, anchor="ma")
    chart.pen.text((SIZE[0] / 2, SIZE[1] - 26), x_label, fill=_INK, font=font, anchor="ma")
    _write_upwards(image, y_label, font)
    return chart


def choose_ticks(low: float, high: float) -> list[float]:
    """Return round numbers that divide a span into four to ten parts.

    >>> choose_ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> choose_ticks(-3.0, 41.0)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _write_upwards(image: Image.Image, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
    strip = Image.new("RGB", (SIZE[1], 22), (255, 255, 255))
    ImageDraw.Draw(strip).text((SIZE[1] / 2, 2), text, fill=_INK, font=font, anchor="ma")
    image.paste(strip.rotate(90, expand=True), (4, 0))
