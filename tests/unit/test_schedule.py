"""The schedule when the clock is set back: it goes on."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler

from dicomnode.schedule import catch_up


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
