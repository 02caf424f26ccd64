"""The table of what runs how often. It only triggers: all work is in `flow.py`. Late runs coalesce."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from dicomnode import flow
from dicomnode.audit.events import AuditEvent
from dicomnode.errors import NodeError, where
from dicomnode.flow import Workplace
from dicomnode.processes.lookout import Lookout
from dicomnode.processes.waker import Waker
from dicomnode.settings.config import Config
from dicomnode.spool.retention import remove_expired_studies

log = structlog.get_logger()
# That a run is skipped while the last one still works is how the table is meant; one warning a second says
# nothing.
logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)


INDEX, ASSESS, ANSWER, DELIVER = "index instances", "assess studies", "answer studies", "deliver results"
COMPUTE_AHEAD = "compute ahead"

# A timer that is silent for so long hangs. Work is not measured by it: computing and sending give signs of
# life on their way.
SILENT_S = 1800.0
# After failures a timer waits 1, 2, 4 ... seconds, at most so long.
LONGEST_WAIT_S = 60.0
_LOGGED_COUNTS = frozenset(10**power for power in range(9))
# For destinations that a reload adds: each may keep two runs busy.
_SPARE_THREADS = 64
# One large object over a slow line gives none, and takes its time.
_SILENT_TIMEOUTS = 60


@dataclass(frozen=True)
class Timer:
    """One row: the function, how often it is triggered (seconds), how many may run at once.

    `wakes` are the timers that are triggered at once when a run had something to do.
    """

    name: str
    interval_s: float
    action: Callable[[Workplace], object]
    at_once: int = 1
    wakes: tuple[str, ...] = ()


class CurrentWorkplace:
    """The workplace that holds now; a reload replaces it for every run that begins afterwards."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace

    def get(self) -> Workplace:
        """Return the workplace for one run, which can see whether it was replaced meanwhile."""
        workplace = self._workplace
        return replace(workplace, is_outdated=lambda: self._workplace is not workplace)

    def take_over(self, config: Config) -> None:
        """Work by another configuration from now on; runs that are under way keep theirs."""
        self._workplace = replace(self._workplace, config=config)


def timers(workplace: Workplace) -> tuple[Timer, ...]:
    """Return the table for this workplace."""
    poll_s = workplace.config.compute.poll_s
    return (
        Timer("mend times", 10.0, flow.mend_times),
        Timer(INDEX, poll_s, flow.index_instances, wakes=(INDEX, ASSESS)),
        Timer(ASSESS, poll_s, flow.assess_studies, wakes=(ANSWER, COMPUTE_AHEAD)),
        Timer("fetch missing", poll_s, flow.fetch_missing),
        Timer(
            ANSWER,
            poll_s,
            _answer_until_idle,
            at_once=workplace.compute.most_workers,
            wakes=(DELIVER, COMPUTE_AHEAD),
        ),
        Timer(
            COMPUTE_AHEAD,
            poll_s,
            flow.compute_ahead,
            at_once=workplace.compute.most_workers,
            wakes=(ASSESS, ANSWER),
        ),
        Timer("learn destinations", poll_s, flow.learn_destinations),
        # A hanging destination keeps one run busy; the next run serves the others.
        Timer(
            DELIVER,
            poll_s,
            flow.deliver_results,
            at_once=len(workplace.config.destinations) + 1,
            wakes=("confirm results",),
        ),
        Timer(
            "confirm results", poll_s, flow.confirm_results, at_once=len(workplace.config.destinations) + 1
        ),
        Timer("remove expired", 3600.0, _remove_expired),
    )


def _remove_expired(workplace: Workplace) -> int:
    workplace.ledger.senders.forget_old(workplace.now())
    workplace.ledger.answers.forget_old(workplace.now())
    return remove_expired_studies(
        workplace.ledger.retention,
        workplace.layout,
        workplace.config.storage,
        workplace.now(),
        workplace.audit,
    )


def start_schedule(
    current: CurrentWorkplace, lookout: Lookout, waker: Waker | None = None
) -> BackgroundScheduler:
    """Start the timers in threads of their own and return the running scheduler.

    `lookout` sees whether each comes round; `waker` is attached to it.
    """
    workplace = current.get()
    table, failures, waker = timers(workplace), Failures(), waker or Waker()
    # Threads are started when they are needed; a reload may add destinations.
    executors = {"default": ThreadPoolExecutor(sum(timer.at_once for timer in table) + _SPARE_THREADS)}
    scheduler = BackgroundScheduler(timezone="UTC", executors=executors)
    silent_s = max(SILENT_S, _SILENT_TIMEOUTS * workplace.config.delivery.timeout_s)
    for timer in table:
        lookout.expect(timer.name, timer.interval_s, silent_s)
        scheduler.add_job(
            _guarded,
            "interval",
            args=(timer, current, lookout, failures, waker),
            seconds=timer.interval_s,
            id=timer.name,
            coalesce=True,
            max_instances=timer.at_once,
            misfire_grace_time=None,
        )
    _attach(waker, scheduler, table)
    scheduler.start()
    return scheduler


def resize(scheduler: BackgroundScheduler, current: CurrentWorkplace, waker: Waker | None = None) -> None:
    """Let as many runs of each timer be under way as the configuration that holds now asks for."""
    table = timers(current.get())
    for timer in table:
        scheduler.modify_job(timer.name, max_instances=timer.at_once)
    if waker is not None:
        _attach(waker, scheduler, table)


def _attach(waker: Waker, scheduler: BackgroundScheduler, table: Sequence[Timer]) -> None:
    def trigger(name: str, at: float | None) -> None:
        turn = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
        # Where the scheduler is stopping nothing is to be triggered any more.
        with suppress(JobLookupError):
            job = scheduler.get_job(name) if at is not None else None
            if job is None or job.next_run_time > turn:
                scheduler.modify_job(name, next_run_time=turn)

    waker.attach(trigger, {timer.name: timer.at_once for timer in table})


def catch_up(scheduler: BackgroundScheduler, now: datetime) -> int:
    """Run at once what waits for longer than its interval; return how many timers that were.

    APScheduler goes by the wall clock. Where that is set back (a clock that is wrong until the network tells
    the time), every timer would wait until the old time is reached again.
    """
    late = [
        job
        for job in scheduler.get_jobs()
        if job.next_run_time is not None and job.next_run_time - now > 2 * job.trigger.interval
    ]
    for job in late:
        job.modify(next_run_time=now)
    if late:
        log.warning("clock_was_set_back", count=len(late))
    return len(late)


def _answer_until_idle(workplace: Workplace) -> int:
    """Answer studies while there are any and a worker is free; workers that joined since are counted in.

    No worker is reserved to look whether there are any: what is computed ahead would miss its turn.
    """
    answered = 0
    while flow.has_due(workplace):
        with workplace.compute.slot() as free:
            if not free or not flow.answer_next(workplace):
                return answered
        answered += 1
        if workplace.is_outdated():
            return answered
    return answered


class Failures:
    """Which timers fail, how often in a row, and when each may run again. Thread-safe.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Timer -> failures in a row, not before, and the failure that was logged last.
        self._failing: dict[str, tuple[int, float, tuple[str, ...]]] = {}

    def may_run(self, name: str) -> bool:
        """Return whether the wait after the last failure is over."""
        with self._lock:
            return name not in self._failing or self._clock() >= self._failing[name][1]

    def note(self, name: str, *fault: str) -> int | None:
        """Note a failure, and wait longer after each.

        Return how many there were in a row when it is to be logged.

        A fault that stays the same is logged at its 1st, 10th, 100th ... time.
        """
        with self._lock:
            count, _, before = self._failing.get(name, (0, 0.0, ()))
            count = count + 1 if before == fault else 1
            wait_s = min(LONGEST_WAIT_S, 2.0 ** min(count - 1, 16))
            self._failing[name] = (count, self._clock() + wait_s, fault)
            return count if count in _LOGGED_COUNTS else None

    def clear(self, name: str) -> None:
        """Note a run that went well."""
        with self._lock:
            self._failing.pop(name, None)


def _guarded(
    timer: Timer,
    current: CurrentWorkplace,
    lookout: Lookout,
    failures: Failures,
    waker: Waker | None = None,
) -> None:
    """Run a timer, and once more where it was woken meanwhile; wake those that its work is for."""
    waker = waker or Waker()
    while True:
        with waker.run(timer.name):
            workplace = replace(current.get(), wake_at=partial(waker.wake_at, timer.name))
            has_worked = _run_guarded(timer, workplace, lookout, failures)
        if has_worked:
            waker.wake(*timer.wakes)
        if not waker.is_wanted_again(timer.name):
            return


def _run_guarded(timer: Timer, workplace: Workplace, lookout: Lookout, failures: Failures) -> bool:
    """Log what a run raises, and run again later; return whether it had something to do.

    Whenever a run looks at the clock or audits something, it is alive.
    """
    with lookout.run(timer.name) as alive:

        def now() -> float:
            alive()
            return workplace.now()

        def audit(event: AuditEvent) -> None:
            alive()
            workplace.audit(event)

        if not failures.may_run(timer.name):
            return False
        try:
            has_worked = bool(timer.action(replace(workplace, now=now, audit=audit)))
            failures.clear(timer.name)
            return has_worked
        except Exception as problem:  # noqa: BLE001  a timer that stops would stop the node
            # Only our own messages are free of header values.
            reason = str(problem) if isinstance(problem, NodeError) else ""
            count = failures.note(timer.name, type(problem).__name__, where(problem), reason)
            if count is not None:
                log.error(  # noqa: TRY400  a full traceback shows values
                    "timer_failed",
                    timer=timer.name,
                    where=where(problem),
                    error=type(problem).__name__,
                    reason=reason,
                    count=count,
                )
        return False
