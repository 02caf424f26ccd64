"""Where studies are computed: Dask distributed, a worker process of our own or a scheduler by address.

Rules for this file:
1. It runs one function on one argument and knows nothing of studies.
2. A worker that dies, outgrows its memory or takes too long ends as `RetryLater`; the ledger counts the
   tries, Dask does not.
3. Dask runs whatever it is sent. Its parts therefore speak TLS with certificates of both sides, on this
   machine too, and open no other port.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dask
import structlog
from distributed import Client, Future, KilledWorker, SpecCluster, Status, Worker, WorkerPlugin
from distributed import TimeoutError as DaskTimeoutError
from distributed.security import Security

from dicomnode.errors import RetryLater, StartError
from dicomnode.processes.step_news import StepNews, run_reporting
from dicomnode.processes.workers import make_temporary_security, security_of, start_workers
from dicomnode.settings.config import ComputeSettings

log = structlog.get_logger()

Answer = TypeVar("Answer")

_NOTICE_S = 10.0
# How often a run is looked at, and the longest wait for the answer of one that is done.
_LOOK_S = 0.05
_FETCH_S = 60.0
# A worker imports the libraries of the image path first.
_FIRST_WORKER_S = 120.0
# The longest way of a task from here to a worker's thread, on a busy machine.
_ON_ITS_WAY_S = 2.0
_SETTINGS = {
    # By default Dask gives a task that kills its worker to three more workers; a poison study must not do
    # that.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.worker.daemon": True,
    # By default Dask closes a worker that stays away for 15 s, and with it the process that its nanny is just
    # starting, and the task that this one was given meanwhile.
    "distributed.deploy.lost-worker-timeout": f"{_FIRST_WORKER_S:g}s",
    "distributed.comm.timeouts.connect": "20s",
    # The limit is met by restarting, not by spilling our arrays to disk.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.98,
    "distributed.logging.distributed": "error",
    # By default Dask has a worker give memory back at once. A volume takes some ten megabytes, hundreds of
    # times a study: getting such pages anew took a fifth of the processor time. They are kept for the next
    # array instead, half a GiB at most, in one store for all threads.
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**28,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**29,
    # What Dask keeps for its dashboard, which we do not have: it grows for an hour, and the profiler looks a
    # hundred times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
    # Each part looks 50 times a second whether its own loop is late, and ten times how much memory is taken.
    "distributed.admin.tick.interval": "500ms",
    "distributed.worker.memory.monitor-interval": "250ms",
    "distributed.admin.system-monitor.log-length": 60,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.log-length": 100,
    "distributed.diagnostics.computations.max-history": 1,
    "distributed.diagnostics.erred-tasks.max-history": 1,
}


class Preparation(WorkerPlugin):
    """Prepares each worker process for its first run.

    Parameters
    ----------
    prepare
        Must be importable by name in the worker.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._prepare = prepare

    def setup(self, worker: Any) -> None:
        """Prepare the worker; one that cannot be prepared still works.

        At its first run it says what is wrong.
        """
        try:
            self._prepare()
        except Exception as problem:  # noqa: BLE001  see above
            log.warning("worker_not_prepared", error=type(problem).__name__)


_MOST_REMOTE_WORKERS = 64
"""Studies at once on a scheduler elsewhere, however many workers it has."""


class Compute:
    """Runs functions in worker processes.

    Parameters
    ----------
    settings
        `scheduler` empty: worker processes on this machine with the given memory limit each, restarted by
        their nannies; otherwise the address of a Dask scheduler.
    workers
        How many processes on this machine; a scheduler elsewhere has its own.
    scratch
        Folder, nobody else's, for the temporary files of the workers on this machine. What a killed worker
        leaves there is removed when the next one starts. Without it a temporary folder is made and removed by
        `close`.
    prepare
        Called once in every worker process when it starts, also in one that replaces another: what it imports
        and opens there is ready for the first run. What it raises is logged, no more.

    Raises
    ------
    StartError
        The scheduler cannot be reached, or a certificate file cannot be used.
    """

    def __init__(
        self,
        settings: ComputeSettings,
        timeout_s: float = 20,
        workers: int = 1,
        scratch: Path | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._cluster: SpecCluster | None = None
        self._workers = workers
        self._running = 0
        self._running_lock = threading.Lock()
        self.lost_workers = 0
        """Worker processes that died, or were ended, while a study was on them."""
        self._own_scratch: Path | None = None
        # Addresses of workers that `_stop` ended.
        self._ended: set[str] = set()
        self.closed = False
        # For the whole process: a worker that is started anew later takes them from there.
        dask.config.set(_SETTINGS)
        security = _site_security(settings) if settings.scheduler else make_temporary_security()
        try:
            if settings.scheduler:
                self._client = Client(
                    settings.scheduler, timeout=timeout_s, set_as_default=False, security=security
                )
            else:
                if scratch is None:
                    scratch = self._own_scratch = Path(tempfile.mkdtemp(prefix="dicomnode-"))
                self._cluster = start_workers(
                    settings.memory_limit_mb, workers, security or make_temporary_security(), scratch
                )
                self._client = Client(self._cluster, set_as_default=False, security=security)
                # Whoever has a Compute can use it: `READY=1` is said afterwards.
                self._client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
            self._news = StepNews(self._client)
            if prepare is not None:
                self._client.register_plugin(Preparation(prepare), name="preparation")
        except (OSError, RuntimeError, DaskTimeoutError) as problem:
            target = settings.scheduler or "a worker process on this machine"
            raise StartError(f"compute.scheduler: {target} cannot be reached or started: {problem}") from None

    @property
    def worker_count(self) -> int:
        """How many workers there are at this moment, at least 1."""
        return max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    @property
    def most_workers(self) -> int:
        """How many workers there can ever be: those of a scheduler elsewhere come and go."""
        return self._workers if self._cluster is not None else _MOST_REMOTE_WORKERS

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Reserve a worker while the body runs; False when every worker that is there now is reserved."""
        workers = self._workers if self._cluster is not None else self.worker_count
        with self._running_lock:
            free = self._running < workers
            self._running += free
        try:
            yield free
        finally:
            with self._running_lock:
                self._running -= free

    def run(
        self,
        function: Callable[..., Answer],
        argument: object,
        *,
        name: str,
        limit_s: float,
        tick: Callable[[], None],
        tick_s: float = 5.0,
        progress: Callable[[str], None] | None = None,
    ) -> Answer:
        """Run `function(argument)` in a worker and return its answer.

        `tick` is called every `tick_s` seconds meanwhile (it renews the lease; what it raises ends the wait
        and the task). With `progress` it is `function(argument, report)` that runs: what the function reports
        reaches `progress` in this process, of several reports within a moment the last.

        Raises
        ------
        RetryLater
            The worker died, outgrew its memory, could not be reached, or the time limit was passed.
        """
        while True:
            key = f"{name}-{time.time_ns()}"
            call = (function, argument) if progress is None else (run_reporting, function, argument, key)
            future: Future[Answer] = self._client.submit(*call, pure=False, key=key, retries=0)
            try:
                with self._news.follow(key) as newest_step:
                    return self._wait_for(
                        future, limit_s, tick, tick_s, partial(_pass_on, newest_step, progress)
                    )
            except KilledWorker as killed:
                # Dask may give a task to a worker that `_stop` has just ended: that says nothing of this one.
                if killed.last_worker.address not in self._ended:
                    self._note_lost(1)
                    raise RetryLater("the worker process died or outgrew its memory limit") from None
                self._ended.discard(killed.last_worker.address)
            except BaseException:
                self._stop(future)
                raise

    def _wait_for(
        self,
        future: Future[Answer],
        limit_s: float,
        tick: Callable[[], None],
        tick_s: float,
        look: Callable[[], None],
    ) -> Answer:
        now = time.monotonic()
        end, next_tick = now + limit_s, now + tick_s
        # Waiting through Dask with a timeout was seen to fail on a busy machine. Its word that a run is over
        # is heard at once, and where that is lost, looking is safe from any thread.
        is_over = threading.Event()
        future.add_done_callback(lambda _future: is_over.set())
        while not future.done():
            is_over.wait(min(_LOOK_S, tick_s))
            is_over.clear()
            look()
            now = time.monotonic()
            if now >= end:
                raise RetryLater(f"the job limit of {limit_s:g} s was passed")
            if self.closed:
                raise RetryLater("the workers were stopped")
            if now >= next_tick:
                tick()
                self._replace_lost()
                next_tick = now + tick_s
        answer: Answer = future.result(timeout=_FETCH_S)
        return answer

    def close(self) -> None:
        """Stop the workers that are ours.

        A run that is under way ends with an error, and `closed` says why.
        """
        self.closed = True
        try:
            self._client.close(timeout=5)
            if self._cluster is not None:
                self._cluster.close(timeout=5)
        except (DaskTimeoutError, TimeoutError):
            # On a machine that is busy; the processes are daemons and end with this one.
            log.warning("workers_not_closed_in_time")
        if self._own_scratch is not None:
            shutil.rmtree(self._own_scratch, ignore_errors=True)

    def _stop(self, future: Future[Any]) -> None:
        """Cancel, and end the process that is on it: Dask cannot interrupt a function that runs.

        Its nanny starts a new one.

        `Client.restart_workers` is not used: it was seen to lose the worker for good when two restarts
        followed each other.
        """
        if future.done() or self.closed:
            return
        busy = {address for address, keys in self._client.processing().items() if future.key in keys}
        future.cancel()
        # A task that is on its way to a worker is not listed yet, and begins there although it was cancelled.
        end = time.monotonic() + _ON_ITS_WAY_S
        while not busy and time.monotonic() < end:
            time.sleep(_LOOK_S)
            busy = self._workers_on(future)
        if not busy:
            return
        log.warning("worker_ended", workers=len(busy))
        self._ended |= busy
        self._note_lost(len(busy))
        if self._cluster is not None:
            for nanny in self._cluster.workers.values():
                if nanny.worker_address in busy:
                    os.kill(nanny.pid, signal.SIGKILL)
        else:
            self._client.run(_end_own_process, workers=list(busy), wait=False, on_error="ignore")
        self._wait_until_gone(busy)

    def _workers_on(self, future: Future[Any]) -> set[str]:
        """Return the addresses of the workers with a thread that is on the task."""
        answers = self._client.run(_is_running, str(future.key), on_error="ignore")
        return {address for address, is_running in answers.items() if is_running is True}

    def _note_lost(self, workers: int) -> None:
        with self._running_lock:
            self.lost_workers += workers

    def _replace_lost(self) -> None:
        """Start workers anew that Dask gave up.

        It does so for good with one that stays away for 15 s or dies in its first start.
        """
        cluster = self._cluster
        if cluster is None or cluster.loop is None or self.closed:
            return

        def replace() -> None:
            for name, nanny in list(cluster.workers.items()):
                if nanny.status in {Status.closed, Status.failed}:
                    cluster.worker_spec.pop(name, None)
            cluster.scale(self._workers)

        cluster.loop.add_callback(replace)

    def _wait_until_gone(self, addresses: set[str]) -> None:
        """Wait until the scheduler has noticed: until then it would give the next task to the dead worker."""
        end = time.monotonic() + _NOTICE_S
        while (
            time.monotonic() < end and addresses & self._client.scheduler_info(n_workers=-1)["workers"].keys()
        ):
            time.sleep(0.05)


def _pass_on(newest_step: Callable[[], str | None], progress: Callable[[str], None] | None) -> None:
    step = newest_step()
    if step is not None and progress is not None:
        progress(step)


def _is_running(key: str, dask_worker: Worker) -> bool:
    return key in dask_worker.active_threads.values()


def _end_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _site_security(settings: ComputeSettings) -> Security | None:
    """Return the site's certificate for a scheduler elsewhere, or None for one that is called without TLS."""
    if settings.scheduler.startswith("tcp://"):
        return None
    certificate, key, authorities = str(settings.certificate), str(settings.key), str(settings.authorities)
    try:
        context = ssl.create_default_context(cafile=authorities)
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as problem:
        raise StartError(
            "compute.certificate, compute.key, compute.authorities cannot be used: "
            f"{type(problem).__name__}: {problem}"
        ) from None
    return security_of(certificate, key, authorities)


def _no_password() -> str:
    raise ValueError(
        "the key has a password, which Dask cannot be given; use a key without one, readable "
        "for the service user only"
    )
