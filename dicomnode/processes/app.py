"""The one place where objects are built and joined; runs the node's processes until they are told to stop."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from dicomnode.audit.events import SUCCESS, AuditEvent, Source
from dicomnode.audit.syslog import SyslogSender, connector
from dicomnode.audit.trail import AuditTrail
from dicomnode.errors import RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.log import configure_logging
from dicomnode.processes.bell import open_bell, ring
from dicomnode.processes.lookout import Lookout
from dicomnode.processes.notify import open_notifier
from dicomnode.processes.reload import Reloader
from dicomnode.processes.root import prepare_root
from dicomnode.processes.serve import check_in_child, run_sides
from dicomnode.processes.signals import Signals
from dicomnode.processes.tally import Tally
from dicomnode.processes.turns import await_replay, only_one, only_receiver
from dicomnode.processes.usable import check_bundles, check_certificates
from dicomnode.settings.config import Config
from dicomnode.spool.layout import SpoolLayout

if TYPE_CHECKING:
    from dicomnode.flow import Workplace
    from dicomnode.network.association import Receiver
    from dicomnode.network.commitment_scp import CommitmentProvider
    from dicomnode.processes.intake import Intake
    from dicomnode.records import CommitmentReport
    from dicomnode.spool.journal.replay import Replayed

log = structlog.get_logger()

WATCHDOG_S = 10.0
# The listener's loop comes round several times a second.
LISTENER_SILENT_S = 30.0


def open_ledger(config: Config) -> Ledger:
    """Make the node's folder (private to the user) and open the ledger in it."""
    prepare_root(config.storage.root)
    return Ledger.open(config.storage.database_url)


def run_receive(config: Config, path: Path | None = None) -> None:
    """Listen until SIGTERM or SIGINT: everything that is acknowledged is safe in the spool.

    SIGHUP reads the configuration at `path` again.
    """
    signals = Signals()
    configure_logging(config.log)
    ledger = open_ledger(config)
    with only_receiver(config.storage.root, SpoolLayout(config.storage.spool)) as replayed:
        reception = _start_reception(config, ledger, replayed)
        audit = reception.audit
        reloader = Reloader("receive", path, config, check_certificates, reception.take_over, audit)
        try:
            until_stopped(signals, lambda: reception.keeps_listening(reloader.config), reloader)
        finally:
            reception.stop()


@dataclass(frozen=True)
class Reception:
    """What the receiving side consists of while it listens."""

    layout: SpoolLayout
    ledger: Ledger
    intake: Intake
    provider: CommitmentProvider
    tally: Tally
    receiver: Receiver
    announcement: Announcement
    audit: AuditTrail
    spool_agrees: bool
    """Whether every file had a row, and every row a file, when it began."""

    def take_over(self, new: Config) -> None:
        """Work by a configuration that was read again."""
        configure_logging(new.log)
        self.intake.take_over(new)
        self.provider.reconfigure(new)
        self.receiver.reconfigure(new)
        self.announcement.write(new)
        self.audit.remember_configuration(new.model_dump_json())

    def keeps_listening(self, config: Config) -> bool:
        """Return whether the listener is well; hand in the counts, and slow senders where studies pile up."""
        with suppress(RetryLater):
            limit = config.network.maximum_open_studies
            self.receiver.congested = self.ledger.jobs.count_open() > limit
        listens = _listens(self.receiver.silent_s())
        self.tally.hand_in(alive=listens)
        return listens

    def stop(self) -> None:
        """Let associations end, and close everything."""
        from dicomnode.spool.orderly import note_all_listed

        self.announcement.remove()
        self.provider.stop()
        self.receiver.stop(10.0)
        if self.intake.close() and self.spool_agrees:
            with suppress(RetryLater):
                note_all_listed(self.layout, self.ledger.instances.extent())
        self.tally.hand_in(alive=False)
        self.ledger.close()
        _close(self.audit, "receive")


def _start_reception(config: Config, ledger: Ledger, replayed: Replayed) -> Reception:
    """Recover the spool, join the parts of the receiving side and listen."""
    # Here and not above: `work` needs no listener and `receive` no pipeline.
    from dicomnode.network.association import Receiver
    from dicomnode.network.commitment_scp import CommitmentProvider
    from dicomnode.processes.intake import open_intake

    layout = SpoolLayout(config.storage.spool)
    spool_agrees = _recover(layout, ledger, replayed)
    intake = open_intake(config, ledger, replayed, lambda: ring(config.storage.root))
    audit = open_audit(config)
    audit.note_configuration(config.model_dump_json())
    provider = CommitmentProvider(
        config, ledger.commitments, intake.writer.holds_whole, time.time, intake.settle
    )

    def journal(report: CommitmentReport) -> bool:
        return ledger.confirmations.report(report, time.time())

    tally = Tally("receive", ledger)
    receiver = Receiver(
        config,
        intake.writer,
        intake.add_instance,
        time.time,
        provider.services(journal),
        audit,
        tally.refused,
        intake.messenger.note_association,
    )
    host, port = receiver.start()
    announcement = Announcement(config.storage.root / "receive.json", host, port)
    announcement.write(config)
    provider.start()
    log.info("listening", ae_title=config.network.ae_title, host=host, port=port)
    audit(AuditEvent("started", detail="receive"))
    # What there is now stays: the collector need not look through it, while senders wait, ever again.
    gc.freeze()
    return Reception(layout, ledger, intake, provider, tally, receiver, announcement, audit, spool_agrees)


def _recover(layout: SpoolLayout, ledger: Ledger, replayed: Replayed) -> bool:
    """Compare spool and ledger, unless an orderly stop left word that they agree.

    Return whether they do now: a file that cannot be read, or is missing, is told of at every start.
    """
    from dicomnode.spool.orderly import take_note
    from dicomnode.spool.recover import rebuild_ledger

    as_left = take_note(layout, ledger.instances.extent())
    if as_left and not replayed.records and not replayed.full:
        log.info("spool_as_left")
        return True
    report = rebuild_ledger(layout, ledger.instances)
    log.info(
        "spool_recovered",
        added=report.added,
        removed=report.removed,
        set_aside=report.set_aside,
        missing=report.missing,
        not_readable=report.not_readable,
        journal=replayed.records,
    )
    return not report.not_readable and not report.missing


def _close(audit: AuditTrail, side: str) -> None:
    audit(AuditEvent("stopped", detail=side))
    audit.close()


def _listens(silent_s: float) -> bool:
    """Return whether the listener's loop comes round, and say so when it does not."""
    if silent_s > LISTENER_SILENT_S:
        log.error(
            "listener_hangs",
            seconds=round(silent_s),
            advice="the watchdog is not fed: the process is to be started again",
        )
    return silent_s <= LISTENER_SILENT_S


@dataclass(frozen=True)
class Announcement:
    """The file that says where a process of the node listens, for as long as it does."""

    path: Path
    host: str
    port: int

    def write(self, config: Config) -> None:
        """Write it; whoever reads meanwhile sees the old one or the new one."""
        values = {
            "pid": os.getpid(),
            "host": self.host,
            "port": self.port,
            "ae_title": config.network.ae_title,
        }
        draft = self.path.with_name(f"{self.path.name}.draft")
        draft.write_text(json.dumps(values))
        draft.replace(self.path)

    def remove(self) -> None:
        """Take it away."""
        self.path.unlink(missing_ok=True)


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
    from dicomnode.answer import prepare_worker
    from dicomnode.compute import Compute
    from dicomnode.flow import Workplace
    from dicomnode.spool.recover import sweep_half_results

    check_bundles(config)
    ledger = open_ledger(config)
    with only_one(config.storage.root / "work.lock", "work"):
        owner = f"work@{socket.gethostname()}"
        layout = SpoolLayout(config.storage.spool)
        await_replay(config.storage.root, layout)
        sweep_half_results(layout)
        # With the slash, else the node on host1 would take what the node on host10 is working on.
        released = sum(
            table.release_owner(f"{owner}/", time.time()) for table in (ledger.jobs, ledger.deliveries)
        )
        if released:
            log.info("unfinished_work_resumed", count=released)
        ledger.jobs.forget_steps()
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


def run_work(config: Config, path: Path | None = None) -> None:
    """Assess, answer and deliver studies until SIGTERM or SIGINT; SIGHUP reads the configuration again."""
    from dicomnode.processes.schedule import INDEX, CurrentWorkplace, catch_up, resize, start_schedule
    from dicomnode.processes.waker import Waker

    signals = Signals()
    configure_logging(config.log)
    with workplace(config) as work_place:
        lookout, current, waker = Lookout(), CurrentWorkplace(work_place), Waker()
        scheduler = start_schedule(current, lookout, waker)
        bell = open_bell(config.storage.root, lambda: waker.wake(INDEX))

        def check(new: Config) -> None:
            check_certificates(new)
            check_bundles(new)

        def take_over(new: Config) -> None:
            configure_logging(new.log)
            current.take_over(new)
            resize(scheduler, current, waker)

        tally, compute, lost_workers = Tally("work", work_place.ledger), work_place.compute, 0

        def look_after() -> bool:
            nonlocal lost_workers
            catch_up(scheduler, datetime.now(UTC))
            is_well = not _hung(lookout)
            tally.lost_workers(compute.lost_workers - lost_workers)
            lost_workers = compute.lost_workers
            tally.hand_in(alive=is_well)
            return is_well

        log.info("working", workers=work_place.compute.worker_count, destinations=len(config.destinations))
        try:
            reloader = Reloader("work", path, config, check, take_over, work_place.audit)
            until_stopped(signals, look_after, reloader)
        finally:
            if bell is not None:
                bell.close()
            # A study that is being computed is left to its lease: it resumes at the next start.
            scheduler.shutdown(wait=False)


# As `nice` counts; a page that needs some milliseconds is answered at once all the same.
_NICENESS_OF_PAGES = 10


def run_web(config: Config, path: Path | None = None) -> None:
    """Serve the pages until SIGTERM or SIGINT; receiving and working go on without them."""
    from dicomnode.web.application import make_application
    from dicomnode.web.open_site import open_site
    from dicomnode.web.server import PageServer

    signals = Signals()
    configure_logging(config.log)
    # Pages may wait; receiving and answering may not.
    if hasattr(os, "nice"):
        os.nice(_NICENESS_OF_PAGES)
    ledger = open_ledger(config)
    with only_one(config.storage.root / "web.lock", "web"):
        audit = open_audit(config)
        site = open_site(config, ledger, audit, _examine, _list_models)
        server = PageServer(make_application(site), config)
        announcement = config.storage.root / "web.json"
        announcement.write_text(json.dumps({"pid": os.getpid(), "address": server.start()}))
        site.uploads.start()
        site.patients.start()
        log.info("pages_served", host=config.web.bind, port=server.port)
        audit(AuditEvent("started", detail="web"))
        try:
            reloader = Reloader("web", path, config, lambda _new: None, site.take_over, audit)
            until_stopped(signals, server.is_alive, reloader)
        finally:
            announcement.unlink(missing_ok=True)
            server.stop()
            site.close()
            ledger.close()
            audit(AuditEvent("stopped", detail="web"))
            audit.close()


def _examine(config: Config) -> Iterator[Any]:
    # Not at the start: the checks load what segments, which the pages do without.
    from dicomnode.commands.doctor import examine

    return examine(config)


def _list_models(config: Config) -> Iterator[dict[str, str]]:
    from dicomnode.answer import SHIPPED_MODELS
    from pipeline.segmenters.families import list_bundles

    for bundle in list_bundles(config.pipeline.models or SHIPPED_MODELS):
        card = bundle.folder / "CARD.md"
        yield {
            "name": bundle.name,
            "version": bundle.version,
            "task": bundle.task,
            "channels": "+".join(bundle.channels),
            "licence": bundle.licence,
            "sha256": bundle.sha256,
            "card": card.read_text(encoding="utf-8") if card.is_file() else "",
        }


def run_serve(config: Config, path: Path | None) -> None:
    """Run both sides, and the pages where they are enabled, as processes of their own.

    One that dies or hangs is started again; pages and monitoring never stop the other two.
    """
    signals = Signals()
    configure_logging(config.log)
    arguments = ["--config", str(path)] if path else []
    # -P: what lies in the folder that the node is started in is not taken for a module (a `socket.py`, say).
    command = [sys.executable, "-P", "-m", "dicomnode"]

    def audit_refusal(event: AuditEvent) -> None:
        """Audit a configuration that was not handed on; each side audits what it takes over itself."""
        if event.outcome != SUCCESS:
            trail = open_audit(config)
            trail(event)
            trail.close()

    def check(_new: Config) -> None:
        check_in_child([*command, "config", "check", "--files", *arguments])

    def commands_of(current: Config) -> dict[str, list[str]]:
        names = ["receive", "work"]
        names += ["web"] if current.web.enabled else []
        names += ["monitor"] if current.monitoring.enabled or current.notifications else []
        return {side: [*command, side, *arguments] for side in names}

    run_sides(
        commands_of,
        signals,
        lambda hand_on: Reloader("serve", path, config, check, hand_on, audit_refusal),
        dispensable=("web", "monitor"),
    )


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


def until_stopped(signals: Signals, is_well: Callable[[], bool], reloader: Reloader) -> None:
    """Tell who started us that we are ready, and feed the watchdog while `is_well`; reload when asked to.

    Return on SIGTERM or SIGINT.
    """
    notifier = open_notifier()
    is_well()
    notifier.notify("READY=1")
    while (request := signals.wait(WATCHDOG_S)) != "stop":
        if request == "reload":
            reloader.reload()
        if is_well():
            notifier.notify("WATCHDOG=1")
    notifier.notify("STOPPING=1")
