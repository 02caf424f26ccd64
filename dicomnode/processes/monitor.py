"""`dicomnode monitor`: the process that monitoring programs ask, and that tells people what happens."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import structlog

from dicomnode.audit.events import AuditEvent
from dicomnode.errors import RetryLater, where
from dicomnode.log import configure_logging
from dicomnode.monitoring.listener import MonitoringListener
from dicomnode.monitoring.pages import Page, respond
from dicomnode.notifications.addresses import check_addresses
from dicomnode.notifications.notifier import Notifier
from dicomnode.processes.app import Announcement, open_audit, open_ledger, until_stopped
from dicomnode.processes.reload import Reloader
from dicomnode.processes.signals import Signals
from dicomnode.processes.turns import only_one
from dicomnode.settings.config import Config

log = structlog.get_logger()

# How often the ledger is looked at for something to tell.
ROUND_S = 15.0
# Services may be slow; who is silent for longer hangs.
_SILENT_S = 900.0


class Rounds:
    """A thread that has a notifier work every few seconds.

    What a round raises is logged, and the next round comes.
    """

    def __init__(self, notifier: Notifier, interval_s: float = ROUND_S) -> None:
        self._notifier, self._interval_s = notifier, interval_s
        self._stopping = threading.Event()
        self._came_round_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the message that is being sent, within some seconds; the others wait in the ledger."""
        self._stopping.set()
        self._thread.join(10.0)

    def is_alive(self) -> bool:
        """Return whether rounds come."""
        return self._thread.is_alive() and time.monotonic() - self._came_round_at < _SILENT_S

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._came_round_at = time.monotonic()
            try:
                self._notifier.work(time.time())
            except RetryLater as problem:
                log.warning("notifications_wait", reason=str(problem))
            except Exception as bug:  # noqa: BLE001  one round must not end the others
                log.error("notifier_failed", where=where(bug), error=type(bug).__name__)  # noqa: TRY400
            self._stopping.wait(self._interval_s)


def run_monitor(config: Config, path: Path | None = None) -> None:
    """Answer monitoring programs, and notify, until SIGTERM or SIGINT.

    Receiving and working go on without it.
    """
    signals = Signals()
    configure_logging(config.log)
    ledger = open_ledger(config)
    with only_one(config.storage.root / "monitor.lock", "monitor"):
        audit = open_audit(config)
        notifier = Notifier(config, ledger, socket.gethostname())
        rounds = Rounds(notifier)

        def take_over(new: Config) -> None:
            configure_logging(new.log)
            notifier.reconfigure(new)

        reloader = Reloader(
            "monitor", path, config, lambda new: check_addresses(new.notifications), take_over, audit
        )

        def answer(address: str) -> Page:
            return respond(address, reloader.config, ledger, time.time())

        listener = None
        if config.monitoring.enabled:
            listener = MonitoringListener(config.monitoring.bind, config.monitoring.port, answer)
            listener.start()
        host, port = (listener.host, listener.port) if listener else ("", 0)
        announcement = Announcement(config.storage.root / "monitor.json", host, port)
        announcement.write(config)
        rounds.start()
        log.info("monitoring", host=host, port=port, count=len(config.notifications))
        audit(AuditEvent("started", detail="monitor"))
        try:
            until_stopped(
                signals, lambda: rounds.is_alive() and (listener is None or listener.is_alive()), reloader
            )
        finally:
            announcement.remove()
            rounds.stop()
            if listener is not None:
                listener.stop()
            ledger.close()
            audit(AuditEvent("stopped", detail="monitor"))
            audit.close()
