"""Who is turned away, in the log and in the audit trail.

Host, AE titles and reason, and a count instead of a flood.

Rules for this file:
1. Texts are ours, hosts are addresses, titles were checked by `request`: nothing else of a peer is written.
2. A stranger cannot fill a log: a few lines a minute and host, and a bounded number of hosts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from dicomnode.audit.events import MINOR_FAILURE, Audit, AuditEvent

log = structlog.get_logger()

_MINUTE_S = 60.0
# Different refusals of one host within a minute that are each written at once; more are counted.
_LINES_A_MINUTE = 5
_HOSTS = 1000
_MORE_HOSTS = "more hosts"


RefusalEvent = Literal[
    "association_broken_off",
    "association_rejected",
    "connection_cut",
    "connection_without_request",
    "instance_refused",
    "tls_handshake_failed",
]


@dataclass(frozen=True)
class Refusal:
    """One caller that was turned away.

    `event` is the key of the log line, `audit_kind` that of the audit event; empty: not audited.
    """

    event: RefusalEvent
    host: str
    reason: str
    advice: str
    audit_kind: str = ""
    calling_ae: str = ""
    called_ae: str = ""
    peer_fault: bool = True

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two refusals of one host the same.

        Connections that never became a request are all the same.
        """
        return (
            ("connection", "", "")
            if self.event.startswith("connection")
            else (self.event, self.reason, self.calling_ae)
        )

    @property
    def detail(self) -> str:
        """The sentence of the audit event: for a rejection the advice, which names the setting."""
        return self.advice if self.event == "association_rejected" else self.reason


@dataclass
class _Minute:
    """The refusals of one host within a minute.

    When it began, and how often each came since its line was written.
    """

    began_at: float
    unwritten: dict[tuple[str, str, str], int] = field(default_factory=dict)
    latest: dict[tuple[str, str, str], Refusal] = field(default_factory=dict)
    overflow: int = 0


class Refusals:
    """Writes refusals. Thread-safe; one per listener.

    Parameters
    ----------
    audit
        The audit trail; it counts repetitions itself.
    clock
        Seconds on a clock that nobody sets.
    """

    def __init__(self, audit: Audit, clock: Callable[[], float]) -> None:
        self._audit, self._clock = audit, clock
        self._minutes: dict[str, _Minute] = {}
        self._lock = threading.Lock()

    def note(self, refusal: Refusal) -> None:
        """Write a refusal, or count it where its host had that line within the minute."""
        with self._lock:
            is_first = self._is_first(refusal)
        if is_first:
            _write(refusal, 1)
        if refusal.audit_kind:
            self._audit(
                AuditEvent(
                    refusal.audit_kind, MINOR_FAILURE, refusal.calling_ae, refusal.host, detail=refusal.detail
                )
            )

    def flush(self) -> None:
        """Write what was counted in minutes that are over."""
        with self._lock:
            now = self._clock()
            over = [host for host, minute in self._minutes.items() if now - minute.began_at >= _MINUTE_S]
            ended = [(host, self._minutes.pop(host)) for host in over]
            for host, minute in ended:
                if any(minute.unwritten.values()):
                    # Its next line waits for the end of the next minute.
                    self._minutes[host] = _Minute(now, dict.fromkeys(minute.latest, 0), minute.latest)
        for host, minute in ended:
            for identity, count in minute.unwritten.items():
                if count:
                    _write(minute.latest[identity], count)
            if minute.overflow:
                log.warning(
                    "refusals_counted",
                    host=host,
                    count=minute.overflow,
                    reason="more refusals of this host than lines a minute",
                )

    def _is_first(self, refusal: Refusal) -> bool:
        host = refusal.host
        if host not in self._minutes and len(self._minutes) >= _HOSTS:
            host = _MORE_HOSTS
        minute = self._minutes.setdefault(host, _Minute(self._clock()))
        identity = refusal.identity
        if identity in minute.unwritten:
            minute.unwritten[identity] += 1
            minute.latest[identity] = refusal
            return False
        if len(minute.unwritten) >= _LINES_A_MINUTE:
            minute.overflow += 1
            return False
        minute.unwritten[identity], minute.latest[identity] = 0, refusal
        return True


def _write(refusal: Refusal, count: int) -> None:
    titles = {"calling_ae": refusal.calling_ae, "called_ae": refusal.called_ae}
    # The events are constants, held by the type of `Refusal.event`.
    write = log.warning if refusal.peer_fault else log.info
    write(
        refusal.event,
        host=refusal.host,
        **{key: title for key, title in titles.items() if title},
        reason=refusal.reason,
        advice=refusal.advice,
        count=count,
    )
