"""Figures over days: how many studies, how quick, with which outcome, how large the lesions.

They also say why some studies failed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from dicomnode.ledger.listing import AnswerLine
from dicomnode.web.charts import Bar, Series, bar_chart, line_chart
from dicomnode.web.pages import STATE_WORDS, render
from dicomnode.web.site import Here, Reader

router = APIRouter()

_DAY_S = 86_400.0
_VOLUME_BINS_ML = (0.0, 1.0, 5.0, 20.0, 80.0, float("inf"))


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
    answers = site.ledger.listing.answers(_midnight(now) - (days - 1) * _DAY_S)
    daily = figures_of_days(answers, now, days)
    times = [answer.answered_at - answer.received_at for answer in answers]
    outcomes = Counter(answer.outcome for answer in answers)
    reasons = Counter(
        answer.code or "no code" for answer in answers if answer.outcome in ("refused", "failed")
    )
    return render(
        request,
        "statistics.html",
        days=days,
        count=len(answers),
        median_s=float(np.median(times)) if times else None,
        p95_s=float(np.percentile(times, 95)) if times else None,
        studies_chart=bar_chart("Studies a day", [Bar(day.day, day.count) for day in daily]),
        times_chart=line_chart(
            "Seconds from the last image to the results",
            [day.day for day in daily],
            [
                Series("median", "dot", [day.median_s for day in daily]),
                Series("95th percentile", "dot95", [day.p95_s for day in daily]),
            ],
        ),
        outcomes_chart=bar_chart(
            "Outcomes", [Bar(STATE_WORDS.get(name, name), n) for name, n in outcomes.most_common()]
        ),
        volumes_chart=bar_chart("Lesion volume of a study, ml", volume_bars(answers)),
        reasons=reasons.most_common(20),
        daily=daily,
    )


def figures_of_days(answers: Sequence[AnswerLine], now: float, days: int) -> list[DayFigures]:
    """Return the figures of each of the last days, the oldest first; a day without answers is there too."""
    today = datetime.fromtimestamp(now).astimezone().date()
    names = [(today - timedelta(days=back)).isoformat() for back in range(days - 1, -1, -1)]
    times: dict[str, list[float]] = {name: [] for name in names}
    for answer in answers:
        day = datetime.fromtimestamp(answer.received_at).astimezone().date().isoformat()
        if day in times:
            times[day].append(max(0.0, answer.answered_at - answer.received_at))
    return [
        DayFigures(
            day,
            len(seconds),
            float(np.median(seconds)) if seconds else None,
            float(np.percentile(seconds, 95)) if seconds else None,
        )
        for day, seconds in times.items()
    ]


def volume_bars(answers: Sequence[AnswerLine]) -> list[Bar]:
    """Return how many studies have a total lesion volume in each range, without those that have none."""
    volumes = [answer.total_ml for answer in answers if answer.total_ml]
    bars = []
    for low, high in itertools.pairwise(_VOLUME_BINS_ML):
        label = f"over {low:g}" if high == float("inf") else f"{low:g} to {high:g}"
        bars.append(Bar(label, sum(low < volume <= high for volume in volumes)))
    return bars


def _midnight(now: float) -> float:
    today = datetime.fromtimestamp(now).astimezone()
    return today.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
