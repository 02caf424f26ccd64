"""The one place where objects are built and joined; runs the node's processes until they are told to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import sdnotify
import structlog

from dicomnode.audit.events import AuditEvent, Source
from dicomnode.audit.syslog import SyslogSender, connector
from dicomnode.audit.trail import AuditTrail
from dicomnode.errors import ConfigError, ProcessLost, RetryLater, StartError
from dicomnode.ledger.ledger import Ledger
from dicomnode.log import configure_logging
from dicomnode.processes.bell import Bell, ring
from dicomnode.processes.lookout import Lookout
from dicomnode.processes.messenger import Messenger
from dicomnode.processes.root import prepare_root
from dicomnode.processes.supervise import MOST_DEATHS, Side
from dicomnode.settings.config import Config
from dicomnode.spool.layout import SpoolLayout

if TYPE_CHECKING:
    from dicomnode.flow import Workplace
    from dicomnode.records import AddOutcome, CommitmentReport, ReceivedInstance

log = structlog.get_logger()

WATCHDOG_S = 10.0
# The listener's loop comes round several times a second.
LISTENER_SILENT_S = 30.0
# How long systemd is to wait on, each time it is told that a side is still starting.
STARTING_S = 60


def open_ledger(config: Config) -> Ledger:
    """Make the node's folder (private to the user) and open the ledger in it."""
    prepare_root(config.storage.root)
    return Ledger.open(config.storage.database_url)


def run_receive(config: Config) -> None:
    """Listen until SIGTERM or SIGINT: everything that is acknowledged is safe in the spool."""
    # Here and not above: `work` needs no listener and `receive` no pipeline.
    from dicomnode.network.association import Receiver
    from dicomnode.network.commitment_scp import CommitmentProvider
    from dicomnode.spool.recover import rebuild_ledger
    from dicomnode.spool.writer import SpoolWriter

    configure_logging(config.log)
    ledger = open_ledger(config)
    with _only_one(config.storage.root / "receive.lock", "receive"):
        layout = SpoolLayout(config.storage.spool)
        writer = SpoolWriter(
            layout, config.storage.minimum_free_mb * 2**20, config.storage.resume_free_mb * 2**20
        )
        report = rebuild_ledger(layout, ledger.instances)
        log.info("spool_recovered", **vars(report))
        audit = open_audit(config)
        audit.note_configuration(config.model_dump_json())
        provider = CommitmentProvider(config, ledger.commitments, writer.holds_whole, time.time)

        def journal(report: CommitmentReport) -> bool:
            return ledger.confirmations.report(report, time.time())

        if broken_off := ledger.senders.break_off_open(time.time()):
            log.info("associations_broken_off", count=broken_off)
        messenger = Messenger(ledger.senders.record, lambda: ring(config.storage.root))

        def add_instance(instance: ReceivedInstance) -> AddOutcome:
            outcome = ledger.instances.add(instance)
            messenger.note_instance()
            return outcome

        receiver = Receiver(
            config,
            writer,
            add_instance,
            time.time,
            provider.services(journal),
            audit,
            messenger.note_association,
        )
        host, port = receiver.start()
        announcement = config.storage.root / "receive.json"
        announcement.write_text(
            json.dumps({"pid": os.getpid(), "host": host, "port": port, "ae_title": config.network.ae_title})
        )
        provider.start()
        log.info("listening", ae_title=config.network.ae_title, host=host, port=port)
        audit(AuditEvent("started", detail="receive"))

        def watch_load() -> bool:
            with suppress(RetryLater):
                receiver.congested = ledger.jobs.count_open() > config.network.maximum_open_studies
            silent_s = receiver.silent_s()
            if silent_s > LISTENER_SILENT_S:
                log.error(
                    "listener_hangs",
                    seconds=round(silent_s),
                    advice="the watchdog is not fed: the process is to be started again",
                )
            return silent_s <= LISTENER_SILENT_S

        try:
            _until_stopped(watch_load)
        finally:
            announcement.unlink(missing_ok=True)
            provider.stop()
            receiver.stop(10.0)
            messenger.close()
            ledger.close()
            audit(AuditEvent("stopped", detail="receive"))
            audit.close()


def open_audit(config: Config) -> AuditTrail:
    """Return the audit trail below the node's root, and its syslog server when there is one.

    `StartError` when its TLS cannot be set up.
    """
    from dicomnode.network.tls import client_context

    settings, host = config.audit, socket.gethostname()
    sender = None
    if settings.syslog_host:
        context = client_context(config.tls) if settings.syslog_tls else None
        sender = SyslogSender(connector(settings.syslog_host, settings.syslog_port, context), host)
    return AuditTrail(
        config.storage.root / "audit", Source(config.network.ae_title, host, os.getpid()), sender
    )


@contextmanager
def workplace(config: Config) -> Iterator[Workplace]:
    """Join what the working side needs; on leaving, its worker processes are stopped."""
    from dicomnode.answer import build_recipe, prepare_worker
    from dicomnode.compute import Compute
    from dicomnode.flow import Workplace
    from dicomnode.spool.recover import sweep_half_results
    from pipeline.errors import BundleError

    try:
        build_recipe(config)
    except BundleError as problem:
        # Noticed later, it would refuse every study into the PACS.
        raise StartError(f"pipeline.lesion_model, pipeline.brain_model: {problem}") from None
    ledger = open_ledger(config)
    with _only_one(config.storage.root / "work.lock", "work"):
        owner = f"work@{socket.gethostname()}"
        layout = SpoolLayout(config.storage.spool)
        sweep_half_results(layout)
        # With the slash, else the node on host1 would take what the node on host10 is working on.
        released = sum(
            table.release_owner(f"{owner}/", time.time()) for table in (ledger.jobs, ledger.deliveries)
        )
        if released:
            log.info("unfinished_work_resumed", count=released)
        audit = open_audit(config)
        compute = Compute(
            config.compute,
            scratch=config.storage.root / "scratch",
            prepare=partial(prepare_worker, config),
        )
        audit(AuditEvent("started", detail="work"))
        try:
            yield Workplace(config, ledger, layout, compute, owner, audit=audit)
        finally:
            compute.close()
            ledger.close()
            audit(AuditEvent("stopped", detail="work"))
            audit.close()


def run_work(config: Config) -> None:
    """Assess, answer and deliver studies until SIGTERM or SIGINT."""
    from dicomnode.processes.schedule import INDEX, Waker, catch_up, start_schedule

    configure_logging(config.log)
    with workplace(config) as work_place:
        lookout, waker = Lookout(), Waker()
        scheduler = start_schedule(work_place, lookout, waker)
        bell = Bell(config.storage.root, lambda: waker.wake(INDEX))

        def look_after() -> bool:
            catch_up(scheduler, datetime.now(UTC))
            return not _hung(lookout)

        log.info("working", workers=work_place.compute.worker_count, destinations=len(config.destinations))
        try:
            _until_stopped(look_after)
        finally:
            bell.close()
            # A study that is being computed is left to its lease: it resumes at the next start.
            scheduler.shutdown(wait=False)


def run_serve(config: Config, config_path: Path | None) -> None:
    """Run both sides as processes of their own and start again the one that dies or hangs."""
    configure_logging(config.log)
    arguments = ["--config", str(config_path)] if config_path else []
    # Before there are children: a SIGTERM in between would leave them behind.
    stop = _stop_event()
    # -P: what lies in the folder that the node is started in is not taken for a module (a `socket.py`, say).
    sides = {
        side: Side([sys.executable, "-P", "-m", "dicomnode", side, *arguments])
        for side in ("receive", "work")
    }
    notifier, is_ready = sdnotify.SystemdNotifier(), False
    try:
        while not stop.wait(0.5):
            for name, side in sides.items():
                _look_after(name, side)
            if not is_ready and all(side.is_ready for side in sides.values()):
                is_ready = True
                notifier.notify("READY=1")
            # A large spool takes its time to be read; both sides say so by being alive.
            notifier.notify("WATCHDOG=1" if is_ready else f"EXTEND_TIMEOUT_USEC={STARTING_S * 10**6}")
    finally:
        for side in sides.values():
            side.process.terminate()
        for side in sides.values():
            side.wait(20.0)


def _look_after(name: str, side: Side) -> None:
    """Kill a side that hangs, start one again that died; `ProcessLost` when that does not help."""
    if side.kill_if_silent(time.monotonic()):
        log.error(
            "process_killed",
            side=name,
            advice="it gave no sign of life for a minute; the log says what hangs",
        )
    if side.restart_if_dead(time.monotonic()):
        log.warning("process_restarted", side=name)
    code = side.start_failure((ConfigError.exit_code, StartError.exit_code))
    if code is not None:
        raise ProcessLost(f"`dicomnode {name}` could not start; its message stands above", code)
    code = side.lost_code(StartError.exit_code)
    if code is not None:
        log.error(
            "process_lost",
            side=name,
            code=code,
            advice="it ended again and again right after its start; the log says why",
        )
        raise ProcessLost(
            f"`dicomnode {name}` ended {MOST_DEATHS} times in a row, the last time with {code}", code
        )


@contextmanager
def _only_one(path: Path, side: str) -> Iterator[None]:
    """Hold the lock of one side of one root; the kernel frees it however the process ends."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(
                f"another `dicomnode {side}` works on {path.parent}; stop it first or use another "
                "storage.root"
            ) from None
        yield


def _stop_event() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _hung(lookout: Lookout) -> bool:
    """Return whether a timer hangs, and name it."""
    overdue = lookout.overdue()
    for name, silent_s in overdue.items():
        log.error(
            "timer_hangs",
            timer=name,
            seconds=round(silent_s),
            advice="the watchdog is not fed: the process is to be started again",
        )
    return bool(overdue)


def _until_stopped(is_well: Callable[[], bool]) -> None:
    """Tell who started us that we are ready, and feed the watchdog while `is_well`.

    Return on SIGTERM or SIGINT.
    """
    stop = _stop_event()
    notifier = sdnotify.SystemdNotifier()
    notifier.notify("READY=1")
    while not stop.wait(WATCHDOG_S):
        if is_well():
            notifier.notify("WATCHDOG=1")
    notifier.notify("STOPPING=1")
