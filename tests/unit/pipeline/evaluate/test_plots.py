"""The pictures show the numbers: pixels of each method's colour lie where its cases belong."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate.case import CaseScore
from pipeline.evaluate.charts import open_chart
from pipeline.evaluate.lesions import LesionCounts
from pipeline.evaluate.plots import plot_bland_altman, plot_boxes, plot_volumes
from pipeline.evaluate.summary import SIZE_EDGES_ML

BLUE, ORANGE = (0, 90, 181), (220, 80, 30)


def case(name: str, true_ml: float, predicted_ml: float, dice: float) -> CaseScore:
    return CaseScore(name, true_ml, predicted_ml, dice, dice, dice, dice, 1.0, 2.0, LesionCounts(1, 1, 1, 1))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def where(png: bytes, color: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((pixels(png) == color).all(axis=-1))


def test_a_point_lies_where_its_axes_say() -> None:
    chart = open_chart("title", "x", "y", (0.0, 10.0), (-1.0, 1.0))
    chart.dot(7.5, 0.5, BLUE)

    rows, columns = where(chart.png(), BLUE).mean(axis=0)
    corners = [chart.at(0, -1), chart.at(10, 1)]
    assert columns == pytest.approx(corners[0][0] + 0.75 * (corners[1][0] - corners[0][0]), abs=1)
    assert rows == pytest.approx(corners[0][1] + 0.75 * (corners[1][1] - corners[0][1]), abs=1)


def test_underestimated_volumes_lie_below_the_identity_line() -> None:
    low = [case(str(n), ml, 0.5 * ml, 0.6) for n, ml in enumerate((10.0, 40.0, 90.0))]
    high = [case(str(n), ml, 1.0 * ml, 0.9) for n, ml in enumerate((10.0, 40.0, 90.0))]

    png = plot_volumes({"low": low, "high": high})

    # Rows grow downwards; the legend is left of the first case.
    blue, orange = where(png, BLUE), where(png, ORANGE)
    assert blue[blue[:, 1] > 500][:, 0].min() > orange[orange[:, 1] > 500][:, 0].max()


def test_bias_is_drawn_where_it_is() -> None:
    scores = [case(str(n), ml, ml - 5.0, 0.6) for n, ml in enumerate((10.0, 40.0, 90.0))]

    assert (
        where(plot_bland_altman({"one": scores}), BLUE)[:, 0].min()
        > pixels(plot_bland_altman({"one": scores})).shape[0] * 0.4
    )


def test_boxes_stand_in_their_bins_and_the_bytes_repeat() -> None:
    scores = [case("a", 0.5, 0.4, 0.2), case("b", 30.0, 20.0, 0.8)]
    png = plot_boxes({"one": scores}, SIZE_EDGES_ML)

    columns = np.unique(where(png, BLUE)[:, 1])
    # "all", "0-1" and "20-80" of seven places are filled.
    assert len(np.split(columns, np.flatnonzero(np.diff(columns) > 5) + 1)) == 3
    assert png == plot_boxes({"one": scores}, SIZE_EDGES_ML)


@pytest.mark.parametrize(
    "scores", [[case("a", 0.0, 0.0, 1.0)], [case("a", 0.0, 3.0, 0.0)], [case("a", 5.0, 5.0, 1.0)] * 3]
)
def test_degenerate_sets_are_drawn_too(scores: list[CaseScore]) -> None:
    for png in (
        plot_volumes({"one": scores}),
        plot_bland_altman({"one": scores}),
        plot_boxes({"one": scores}, SIZE_EDGES_ML),
    ):
        assert pixels(png).shape == (560, 720, 3)
