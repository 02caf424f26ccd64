"""A time of day from and until, as settings write it: 22:00-06:00, local time; the end does not count."""

from __future__ import annotations

from datetime import time
from typing import Annotated

from pydantic import StringConstraints

_SPAN = r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d"
Hours = Annotated[str, StringConstraints(strip_whitespace=True, pattern=rf"^{_SPAN}$")]
OptionalHours = Annotated[str, StringConstraints(strip_whitespace=True, pattern=rf"^({_SPAN})?$")]


def parse_hours(text: str) -> tuple[time, time] | None:
    """Return the two times of `22:00-06:00`, None where there are none."""
    if not text:
        return None
    begin, end = text.split("-")
    return time.fromisoformat(begin), time.fromisoformat(end)


def is_within(moment: time, hours: str) -> bool:
    """Return whether a time of day lies in hours, which may go over midnight; always where there are none.

    >>> is_within(time(23, 30), "22:00-06:00"), is_within(time(6, 0), "22:00-06:00")
    (True, False)
    """
    span = parse_hours(hours)
    if span is None:
        return True
    begin, end = span
    return begin <= moment < end if begin < end else moment >= begin or moment < end
