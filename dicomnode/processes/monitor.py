"""`dicomnode monitor`: the process that monitoring programs ask."""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from dicomnode.audit.events import AuditEvent
from dicomnode.log import configure_logging
from dicomnode.monitoring.listener import MonitoringListener
from dicomnode.monitoring.pages import Page, respond
from dicomnode.processes.app import Announcement, only_one, open_audit, open_ledger, until_stopped
from dicomnode.processes.reload import Reloader
from dicomnode.processes.signals import Signals
from dicomnode.settings.config import Config

log = structlog.get_logger()


def run_monitor(config: Config, path: Path | None = None) -> None:
    """Answer monitoring programs until SIGTERM or SIGINT; receiving and working go on without it."""
    signals = Signals()
    configure_logging(config.log)
    ledger = open_ledger(config)
    with only_one(config.storage.root / "monitor.lock", "monitor"):
        audit = open_audit(config)
        reloader = Reloader(
            "monitor", path, config, lambda _new: None, lambda new: configure_logging(new.log), audit
        )

        def answer(address: str) -> Page:
            return respond(address, reloader.config, ledger, time.time())

        listener = MonitoringListener(config.monitoring.bind, config.monitoring.port, answer)
        listener.start()
        announcement = Announcement(config.storage.root / "monitor.json", listener.host, listener.port)
        announcement.write(config)
        log.info("monitoring", host=listener.host, port=listener.port)
        audit(AuditEvent("started", detail="monitor"))
        try:
            until_stopped(signals, listener.is_alive, reloader)
        finally:
            announcement.remove()
            listener.stop()
            ledger.close()
            audit(AuditEvent("stopped", detail="monitor"))
            audit.close()
