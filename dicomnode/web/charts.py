"""Charts as SVG, made by the server; every label is escaped.

A table with the same figures stands below each chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 240, 48, 44, 14
_MOST_LABELS = 7
_WIDEST_BAR = 90


@dataclass(frozen=True)
class Bar:
    """A label and how many."""

    label: str
    count: int


@dataclass(frozen=True)
class Series:
    """Points of one colour; None where there is no point."""

    name: str
    css_class: str
    values: Sequence[float | None]


def bar_chart(title: str, bars: Sequence[Bar]) -> Markup:
    """Return bars side by side."""
    largest = max((bar.count for bar in bars), default=0) or 1
    step = (_WIDTH - _LEFT) / max(1, len(bars))
    shapes = []
    for number, bar in enumerate(bars):
        height = (_HEIGHT - _BOTTOM - _TOP) * bar.count / largest
        width = min(step * 0.8, _WIDEST_BAR)
        x, y = _LEFT + (number + 0.5) * step - width / 2, _HEIGHT - _BOTTOM - height
        shapes.append(
            Markup(
                '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{}: {}</title></rect>"
            ).format(x, y, width, height, bar.label, bar.count)
        )
    return _frame(title, shapes, [bar.label for bar in bars], largest)


def line_chart(title: str, labels: Sequence[str], series: Sequence[Series]) -> Markup:
    """Return points over labels."""
    largest = (
        max((value for line in series for value in line.values if value is not None), default=0.0) or 1.0
    )
    step = (_WIDTH - _LEFT) / max(1, len(labels))
    shapes = []
    for line in series:
        for number, value in enumerate(line.values):
            if value is None:
                continue
            y = _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / largest
            shapes.append(
                Markup(
                    '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}, {}: {:.1f}</title></circle>'
                ).format(line.css_class, _LEFT + (number + 0.5) * step, y, labels[number], line.name, value)
            )
    return _frame(title, shapes, labels, largest)


def _frame(title: str, shapes: Sequence[Markup], labels: Sequence[str], largest: float) -> Markup:
    """Return the SVG around shapes: axis, the largest value, and as many labels as there is room for."""
    step = (_WIDTH - _LEFT) / max(1, len(labels))
    every = -(-len(labels) // _MOST_LABELS) if labels else 1
    words = [
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            _LEFT + (number + 0.5) * step, _HEIGHT - _BOTTOM + 20, label
        )
        for number, label in enumerate(labels)
        if number % every == 0
    ]
    axis = Markup('<path class="axis" d="M{0} {1}V{2}H{3}" fill="none"/>').format(
        _LEFT, _TOP, _HEIGHT - _BOTTOM, _WIDTH
    )
    scale = Markup('<text x="{}" y="{}" text-anchor="end">{:g}</text>').format(
        _LEFT - 6, _TOP + 10, round(largest, 1)
    )
    opening = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        _WIDTH, _HEIGHT, escape(title)
    )
    return Markup("").join([opening, axis, scale, *shapes, *words, Markup("</svg>")])
