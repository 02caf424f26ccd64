"""The three pictures of an evaluation.

Dice as boxes by size, volumes against each other, and their Bland-Altman plot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluate.agreement import measure_agreement
from pipeline.evaluate.case import CaseScore
from pipeline.evaluate.charts import Chart, Color, Span, open_chart

_COLORS: tuple[Color, ...] = ((0, 90, 181), (220, 80, 30))
_GREY: Color = (120, 120, 120)

Methods = Mapping[str, Sequence[CaseScore]]
"""Name of a method to its scores; one or two of them."""


def plot_boxes(methods: Methods, edges_ml: Sequence[float]) -> bytes:
    """Return a PNG with a box of Dice for all cases and for each size bin; every case is drawn too.

    The box is the middle half, its line the median; whiskers end at the last case within 1.5 box heights
    (Tukey).
    """
    edges = (0.0, *edges_ml, math.inf)
    names = [
        "all",
        "none",
        *(
            f"{low:g}-{high:g}" if math.isfinite(high) else f"> {low:g}"
            for low, high in itertools.pairwise(edges)
        ),
    ]
    chart = open_chart(
        "Dice by true volume", "true volume in ml", "Dice", (0.4, len(names) + 0.6), (-0.02, 1.02), names
    )
    _legend(chart, list(methods))
    for number, scores in enumerate(methods.values()):
        shift = 0.0 if len(methods) == 1 else (-0.2, 0.2)[number]
        groups = [[score.dice for score in scores], [score.dice for score in scores if score.true_ml == 0]]
        groups += [
            [s.dice for s in scores if low < s.true_ml <= high] for low, high in itertools.pairwise(edges)
        ]
        for position, values in enumerate(groups, start=1):
            if values:
                _box(chart, position + shift, 0.32 / len(methods), values, _COLORS[number])
    return chart.png()


def plot_volumes(methods: Methods) -> bytes:
    """Return a PNG of predicted against true volume with the identity and the regression line."""
    top = 1.05 * max(
        1e-3,
        *(volume for scores in methods.values() for s in scores for volume in (s.true_ml, s.predicted_ml)),
    )
    chart = open_chart(
        "Predicted against true volume", "true volume in ml", "predicted volume in ml", (0.0, top), (0.0, top)
    )
    chart.line((0.0, 0.0), (top, top), _GREY, 1)
    _legend(chart, list(methods))
    for scores, color in zip(methods.values(), _COLORS, strict=False):
        for score in scores:
            chart.dot(score.true_ml, score.predicted_ml, color)
        lesions = [score for score in scores if score.true_ml > 0]
        line = (
            measure_agreement([s.predicted_ml for s in lesions], [s.true_ml for s in lesions])
            if lesions
            else None
        )
        if line is not None and math.isfinite(line.slope):
            ends = [
                (x, line.slope * x + line.intercept_ml)
                for x in (min(s.true_ml for s in lesions), max(s.true_ml for s in lesions))
            ]
            chart.line(ends[0], ends[1], color)
    return chart.png()


def plot_bland_altman(methods: Methods) -> bytes:
    """Return a PNG of the volume difference against the mean volume, with bias and limits of agreement."""
    points = {
        name: [((s.true_ml + s.predicted_ml) / 2, s.volume_error_ml) for s in scores]
        for name, scores in methods.items()
    }
    agreements = {
        name: measure_agreement([s.predicted_ml for s in scores], [s.true_ml for s in scores])
        for name, scores in methods.items()
    }
    lines = [
        value
        for a in agreements.values()
        for value in (a.bias_ml, a.low_ml, a.high_ml)
        if math.isfinite(value)
    ]
    span = _span([0.0, *lines, *(y for pairs in points.values() for _, y in pairs)])
    right = 1.05 * max(1e-3, *(x for pairs in points.values() for x, _ in pairs))
    chart = open_chart(
        "Bland-Altman",
        "mean of predicted and true volume in ml",
        "predicted - true in ml",
        (0.0, right),
        span,
    )
    chart.line((0.0, 0.0), (right, 0.0), _GREY, 1)
    _legend(chart, list(methods))
    for name, color in zip(methods, _COLORS, strict=False):
        for x, y in points[name]:
            chart.dot(x, y, color)
        agreement = agreements[name]
        for value, word in (
            (agreement.bias_ml, "bias"),
            (agreement.low_ml, "-1.96 SD"),
            (agreement.high_ml, "+1.96 SD"),
        ):
            if math.isfinite(value):
                chart.line((0.0, value), (right, value), color, 2 if word == "bias" else 1)
                chart.note(0.78 * right, value, f"{word} {value:.2f}", color)
    return chart.png()


def _box(chart: Chart, x: float, reach: float, values: Sequence[float], color: Color) -> None:
    low, middle, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    inside = [value for value in values if low - 1.5 * (high - low) <= value <= high + 1.5 * (high - low)]
    chart.pen.rectangle((*chart.at(x - reach, high), *chart.at(x + reach, low)), outline=color, width=2)
    chart.line((x - reach, middle), (x + reach, middle), color, 3)
    chart.line((x, low), (x, min(inside)), color, 1)
    chart.line((x, high), (x, max(inside)), color, 1)
    # Cases side by side in a fixed order, so that equal values do not hide each other.
    for number, value in enumerate(values):
        chart.dot(x + reach * 0.7 * ((number * 0.618) % 1 * 2 - 1), value, color)


def _legend(chart: Chart, names: Sequence[str]) -> None:
    if len(names) > 1:
        for number, (name, color) in enumerate(zip(names, _COLORS, strict=False)):
            chart.pen.text((92, 52 + 18 * number), name, fill=color)


def _span(values: Sequence[float]) -> Span:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room
