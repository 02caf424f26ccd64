"""Figures over days: how many studies, how quick, with which outcome, how large the lesions.

They also say why some studies failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from dicomnode.web.charts import Bar, Series, bar_chart, line_chart
from dicomnode.web.pages import STATE_WORDS, render
from dicomnode.web.site import Here, Reader

router = APIRouter()

_NOT_PROCESSED = ("refused", "failed")
_VOLUME_BOUNDS_ML = (1.0, 5.0, 20.0, 80.0)


@dataclass(frozen=True)
class DayFigures:
    """One day: answers, and the median and 95th percentile of seconds from the last image to the results."""

    day: str
    count: int
    median_s: float | None
    p95_s: float | None


@router.get("/statistics")
def show_statistics(
    request: Request, site: Here, visitor: Reader, days: Annotated[int, Query(ge=1, le=366)] = 30
) -> Response:
    """Show the figures of the last days."""
    now = site.now()
    starts = day_starts(now, days)
    figures = site.ledger.answers.figures(starts[0])
    seconds = answer_seconds(figures.times)
    daily = figures_of_days(figures.times, seconds, starts)
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for (outcome, code), count in figures.counts.items():
        outcomes[outcome] += count
        if outcome in _NOT_PROCESSED:
            reasons[code or "no code"] += count
    return render(
        request,
        "statistics.html",
        days=days,
        count=len(seconds),
        median_s=_percentile(seconds, 50),
        p95_s=_percentile(seconds, 95),
        studies_chart=bar_chart("Studies a day", [Bar(day.day[5:], day.count) for day in daily]),
        times_chart=line_chart(
            "Seconds from the last image to the results",
            [day.day[5:] for day in daily],
            [
                Series("median", "dot", [day.median_s for day in daily]),
                Series("95th percentile", "dot95", [day.p95_s for day in daily]),
            ],
        ),
        outcomes_chart=bar_chart(
            "Outcomes", [Bar(STATE_WORDS.get(name, name), n) for name, n in outcomes.most_common()]
        ),
        volumes_chart=bar_chart("Lesion volume of a study, ml", volume_bars(figures.volumes_ml)),
        reasons=reasons.most_common(20),
        daily=daily,
    )


def day_starts(now: float, days: int) -> list[float]:
    """Return when each of the last local days began, and when tomorrow begins.

    The oldest comes first. Times are in seconds since the epoch.

    A day in which clocks are changed has 23 or 25 hours.
    """
    today = datetime.fromtimestamp(now).astimezone().date()
    mornings = (datetime.combine(today - timedelta(days=back), time.min) for back in range(days - 1, -2, -1))
    return [morning.timestamp() for morning in mornings]


def answer_seconds(times: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """Return the seconds from the last image to the answer of each study."""
    columns = np.array(times, np.float64).reshape(-1, 2)
    return np.maximum(0.0, columns[:, 1] - columns[:, 0])


def figures_of_days(
    times: Sequence[tuple[float, float]], seconds: NDArray[np.float64], starts: Sequence[float]
) -> list[DayFigures]:
    """Return the figures of each day, the oldest first; a day without answers is there too.

    Parameters
    ----------
    times
        When the last image came and when it was answered, in the order of the first.
    seconds
        What lies between the two.
    starts
        As `day_starts` returns them.
    """
    received_at = np.array(times, np.float64).reshape(-1, 2)[:, 0]
    edges = np.searchsorted(received_at, starts)
    return [
        DayFigures(
            datetime.fromtimestamp(start).astimezone().date().isoformat(),
            int(end - begin),
            _percentile(seconds[begin:end], 50),
            _percentile(seconds[begin:end], 95),
        )
        for start, begin, end in zip(starts, edges, edges[1:], strict=False)
    ]


def volume_bars(volumes_ml: Sequence[float]) -> list[Bar]:
    """Return how many studies have a total lesion volume in each range, without those that have none."""
    bins = np.searchsorted(_VOLUME_BOUNDS_ML, np.array(volumes_ml, np.float64), side="left")
    counts = np.bincount(bins, minlength=len(_VOLUME_BOUNDS_ML) + 1)
    lows = ("0", *(f"{bound:g}" for bound in _VOLUME_BOUNDS_ML))
    labels = [f"{low} to {bound:g}" for low, bound in zip(lows, _VOLUME_BOUNDS_ML, strict=False)]
    return [
        Bar(label, int(count)) for label, count in zip((*labels, f"over {lows[-1]}"), counts, strict=True)
    ]


def _percentile(seconds: NDArray[np.float64], percent: float) -> float | None:
    return float(np.percentile(seconds, percent)) if len(seconds) else None
