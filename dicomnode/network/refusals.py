"""Who is turned away, in the log and in the audit trail.

Host, AE titles and reason, and a count instead of a flood.

Rules for this file:
1. Texts are ours, hosts are addresses, titles were checked by `request`: nothing else of a peer is written.
2. A stranger cannot fill a log: one line a minute and host, and a bounded number of hosts.
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
# Different reasons that one line names; more are in the audit trail.
_REASONS_A_LINE = 5
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
    def detail(self) -> str:
        """The sentence of the audit event: for a rejection the advice, which names the setting."""
        return self.advice if self.event == "association_rejected" else self.reason


@dataclass
class _Minute:
    """The refusals of one host since its last line.

    Held are when that line was written, how many came, the last one, and their reasons.
    """

    began_at: float
    count: int = 0
    latest: Refusal | None = None
    reasons: list[str] = field(default_factory=list)

    def add(self, refusal: Refusal) -> None:
        """Count a refusal that gets no line now."""
        self.count, self.latest = self.count + 1, refusal
        if refusal.reason not in self.reasons and len(self.reasons) < _REASONS_A_LINE:
            self.reasons.append(refusal.reason)


class Refusals:
    """Writes refusals. Thread-safe; one per listener.

    Parameters
    ----------
    audit
        The audit trail; it counts repetitions itself.
    clock
        Seconds on a clock that nobody sets.
    count
        Told event and reason of each, for the metrics.
    """

    def __init__(
        self, audit: Audit, clock: Callable[[], float], count: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self._audit, self._clock, self._count = audit, clock, count
        self._minutes: dict[str, _Minute] = {}
        self._lock = threading.Lock()

    def note(self, refusal: Refusal) -> None:
        """Write a refusal, or count it where its host had a line within the minute."""
        self._count(refusal.event, refusal.reason)
        with self._lock:
            is_first = self._is_first(refusal)
        if is_first:
            _write(refusal, 1, refusal.reason)
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
            ended = [self._minutes.pop(host) for host in over]
            for host, minute in zip(over, ended, strict=True):
                if minute.count:
                    # Its next line waits for the end of the next minute.
                    self._minutes[host] = _Minute(now)
        for minute in ended:
            if minute.latest is not None:
                _write(minute.latest, minute.count, "; ".join(minute.reasons))

    def _is_first(self, refusal: Refusal) -> bool:
        host = refusal.host
        if host not in self._minutes and len(self._minutes) >= _HOSTS:
            host = _MORE_HOSTS
        if host not in self._minutes:
            self._minutes[host] = _Minute(self._clock())
            return True
        self._minutes[host].add(refusal)
        return False


def _write(refusal: Refusal, count: int, reason: str) -> None:
    titles = {"calling_ae": refusal.calling_ae, "called_ae": refusal.called_ae}
    # The events are constants, held by the type of `Refusal.event`.
    write = log.warning if refusal.peer_fault else log.info
    write(
        refusal.event,
        host=refusal.host,
        **{key: title for key, title in titles.items() if title},
        reason=reason,
        advice=refusal.advice,
        count=count,
    )
