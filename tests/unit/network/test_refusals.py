"""A host gets one line a minute, with the count and the reasons of what came since; all goes to the audit trail."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import structlog

from dicomnode.audit.events import AuditEvent
from dicomnode.network.refusals import Refusal, Refusals


class Desk:
    """Refusals with a clock set by hand, their lines and their audit events."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.audited: list[AuditEvent] = []
        self.refusals = Refusals(self.audited.append, lambda: self.seconds)

    def refuse(self, reason: str, host: str = "192.0.2.9") -> None:
        refusal = Refusal("association_rejected", host, reason, "see there", "association-rejected", "NOBODY")
        self.refusals.note(refusal)

    def wait(self, seconds: float) -> None:
        self.seconds += seconds
        self.refusals.flush()


@pytest.fixture
def lines() -> Any:
    with structlog.testing.capture_logs() as captured:
        yield captured


def test_different_reasons_of_one_host_share_a_line_a_minute(lines: list[dict[str, Any]]) -> None:
    desk = Desk()
    for reason in ("first", "second", "third", "second"):
        desk.refuse(reason)
    assert [(line["reason"], line["count"]) for line in lines] == [("first", 1)]

    desk.wait(59.0)
    assert len(lines) == 1
    desk.wait(1.0)
    assert [(line["reason"], line["count"]) for line in lines[1:]] == [("second; third", 3)]
    assert len(desk.audited) == 4


def test_lines_of_a_host_lie_a_minute_apart_and_nothing_is_uncounted(lines: list[dict[str, Any]]) -> None:
    desk, written_at = Desk(), list[float]()
    for number in range(1000):
        desk.refuse(f"reason {number % 7}")
        written_at += [desk.seconds] * (len(lines) - len(written_at))
        desk.wait(0.7)
        written_at += [desk.seconds] * (len(lines) - len(written_at))
    desk.wait(60.0)

    assert sum(line["count"] for line in lines) == 1000
    assert min(later - earlier for earlier, later in itertools.pairwise(written_at)) >= 60.0


def test_hosts_do_not_share_and_a_quiet_host_is_forgotten(lines: list[dict[str, Any]]) -> None:
    desk = Desk()
    desk.refuse("one", "192.0.2.1")
    desk.refuse("two", "192.0.2.2")
    desk.wait(61.0)
    desk.refuse("three", "192.0.2.1")
    assert [(line["host"], line["reason"]) for line in lines] == [
        ("192.0.2.1", "one"),
        ("192.0.2.2", "two"),
        ("192.0.2.1", "three"),
    ]


def test_a_flood_of_hosts_gets_a_bounded_number_of_lines(lines: list[dict[str, Any]]) -> None:
    desk = Desk()
    for number in range(3000):
        desk.refuse("flood", f"2001:db8::{number:x}")
    assert len(lines) == 1001
