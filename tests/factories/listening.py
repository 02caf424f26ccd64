"""A receiver of the tests' own process, and what it took: instances, log lines, audit events, threads and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from dicomnode.audit.events import AuditEvent
from dicomnode.network.association import Receiver
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter

PEER, STRANGER = "127.0.0.1", "127.0.0.9"


@dataclass
class Listening:
    """A receiver that listens."""

    receiver: Receiver
    port: int
    spool: Path
    stored: list[str] = field(default_factory=list)
    audited: list[AuditEvent] = field(default_factory=list)
    logged: list[Any] = field(default_factory=list)

    @property
    def held_bytes(self) -> int:
        """What the one account counts."""
        server: Any = self.receiver._server
        return int(server.memory.held_bytes)

    def lines(self, host: str) -> list[Any]:
        """Return the log lines about a host."""
        return [line for line in self.logged if line.get("host") == host]


@contextmanager
def listening(root: Path, tls: dict[str, Any] | None = None, **network: Any) -> Iterator[Listening]:
    """Listen on all addresses of this machine, for the peer PEER at 127.0.0.1 only."""
    values = {
        "port": 0,
        "ae_title": "NODE",
        "accept_unknown_peers": "never",
        "tls": tls is not None,
        **network,
    }
    config = parse_config(
        {"network": values, "peers": [{"ae_title": "PEER", "hosts": [PEER]}], "tls": tls or {}}
    )
    stored: list[str] = []
    audited: list[AuditEvent] = []

    def add(instance: Any) -> Any:
        stored.append(instance.SOPInstanceUID)
        return "new"

    receiver = Receiver(
        config, SpoolWriter(SpoolLayout(root / "spool"), 0), add, time.time, audit=audited.append
    )
    with structlog.testing.capture_logs() as logged:
        yield Listening(receiver, receiver.start()[1], root / "spool", stored, audited, logged)
        receiver.stop(2.0)


def resident_mib() -> float:
    """Return the resident memory of this process."""
    pages = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]
    return int(pages) / 1024


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Wait for a condition."""
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def threads_go_down_to(count: int) -> bool:
    """Wait until no more threads run than that."""
    return eventually(lambda: threading.active_count() <= count)
