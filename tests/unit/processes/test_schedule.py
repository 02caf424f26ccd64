"""The schedule when the clock is set back, and when one of its timers hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from dicomnode import flow
from dicomnode.compute import Compute
from dicomnode.errors import ConfigError
from dicomnode.processes import schedule
from dicomnode.processes.lookout import Lookout
from dicomnode.processes.schedule import CurrentWorkplace, catch_up, start_schedule
from dicomnode.processes.waker import Waker
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from tests.factories.ledger import LedgerStory, new_ledger
from tests.factories.listening import eventually
from tests.factories.whole_node import InlineCompute


def test_a_clock_that_is_set_back_does_not_stop_the_timers() -> None:
    ran = threading.Event()
    scheduler = BackgroundScheduler(timezone="UTC")
    timer = scheduler.add_job(ran.set, "interval", seconds=1, coalesce=True, misfire_grace_time=None)
    scheduler.start()
    try:
        now = datetime.now(UTC)
        assert catch_up(scheduler, now) == 0
        # As after an hour backwards.
        timer.modify(next_run_time=now + timedelta(hours=1))
        ran.clear()

        assert catch_up(scheduler, now) == 1
        assert ran.wait(5)
        assert timer.next_run_time < now + timedelta(minutes=1)
    finally:
        scheduler.shutdown()


def test_a_timer_is_woken_at_a_time_unless_it_runs_before() -> None:
    scheduler, waker = BackgroundScheduler(timezone="UTC"), Waker()
    timer = scheduler.add_job(print, "interval", seconds=600, id="count")
    scheduler.start(paused=True)
    try:
        schedule._attach(waker, scheduler, [])
        now = datetime.now(UTC)
        waker.wake_at("count", (now + timedelta(seconds=900)).timestamp())
        assert timedelta(seconds=500) < timer.next_run_time - now < timedelta(seconds=700)

        waker.wake_at("count", (now + timedelta(seconds=60)).timestamp())

        assert abs(timer.next_run_time - now - timedelta(seconds=60)) < timedelta(seconds=1)
    finally:
        scheduler.shutdown()


def test_a_timer_that_hangs_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, rounds = threading.Event(), list[str]()

    def hang(_place: flow.Workplace) -> int:
        goes_on.wait(300)
        return 0

    def work_long(place: flow.Workplace) -> bool:
        """As a study that is computed: whoever waits for it looks at the clock now and then."""
        while not goes_on.wait(0.1):
            place.now()
        return False

    monkeypatch.setattr(schedule, "SILENT_S", 1.0)
    monkeypatch.setattr(flow, "assess_studies", hang)
    monkeypatch.setattr(flow, "has_due", lambda _place: True)
    monkeypatch.setattr(flow, "answer_next", work_long)
    monkeypatch.setattr(flow, "index_instances", lambda _place: rounds.append("index"))
    ledger, lookout = new_ledger(tmp_path), Lookout()
    settings = {
        "storage": {"root": str(tmp_path)},
        "compute": {"poll_s": 0.1},
        "delivery": {"timeout_s": 0.01},
    }
    layout, compute = SpoolLayout(tmp_path / "spool"), cast("Compute", InlineCompute())
    scheduler = start_schedule(
        CurrentWorkplace(flow.Workplace(parse_config(settings), ledger, layout, compute, "work@here")),
        lookout,
    )
    try:
        # On a busy machine another may be late for a moment; it is not for long.
        assert eventually(lambda: list(lookout.overdue()) == ["assess studies"], 60)
        silent_s, before = lookout.overdue()["assess studies"], len(rounds)
        assert eventually(lambda: len(rounds) > before + 5, 60)
        assert eventually(lambda: list(lookout.overdue()) == ["assess studies"], 60)
        silent_later_s = lookout.overdue()["assess studies"]
    finally:
        goes_on.set()
        scheduler.shutdown()
        ledger.close()

    assert silent_later_s > silent_s > 1.0
    assert lookout.overdue() == {}


def test_a_timer_that_fails_says_why_once_and_waits_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tried = 0.0, list[float]()

    def fail(_place: flow.Workplace) -> int:
        tried.append(now)
        raise ConfigError(["'pasc' is no destination"])

    failures = schedule.Failures(lambda: now)
    place = cast(
        "flow.Workplace",
        flow.Workplace(parse_config({}), cast("Any", None), SpoolLayout(tmp_path), cast("Any", None), "work"),
    )
    with structlog.testing.capture_logs() as lines:
        for _ in range(3600):
            schedule._guarded(
                schedule.Timer("fetch missing", 1.0, fail), CurrentWorkplace(place), Lookout(), failures
            )
            now += 1
    assert tried[:6] == [0, 1, 3, 7, 15, 31]
    assert len(tried) == 65
    assert [(line["count"], line["reason"]) for line in lines] == [
        (1, "'pasc' is no destination"),
        (10, "'pasc' is no destination"),
    ]

    now += 100
    schedule._guarded(
        schedule.Timer("fetch missing", 1.0, lambda _place: 0), CurrentWorkplace(place), Lookout(), failures
    )
    assert failures.may_run("fetch missing")
    assert failures.note("fetch missing", "again") == 1


def test_looking_for_a_study_to_answer_reserves_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()

    class Watched(InlineCompute):
        @contextmanager
        def slot(self) -> Iterator[bool]:
            calls.append("worker reserved")
            yield True

    monkeypatch.setattr(flow, "answer_next", lambda _place: bool(calls.append("answered")))
    ledger, config = new_ledger(tmp_path), parse_config({"storage": {"root": str(tmp_path)}})
    layout, compute = SpoolLayout(tmp_path / "spool"), cast("Compute", Watched())
    place = flow.Workplace(config, ledger, layout, compute, "work@here", lambda: 30.0)
    (answering,) = (timer for timer in schedule.timers(place) if timer.name == schedule.ANSWER)
    LedgerStory(ledger).waiting()

    answering.action(place)
    assert calls == []

    ledger.jobs.mark_ready(ledger.jobs.waiting()[0].id, "complete by evidence", {}, 20.0)
    answering.action(place)
    assert calls == ["worker reserved", "answered"]
    ledger.close()
