"""What each address answers.

Pure but for one look at the node: whoever has an HTTP server may serve these.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from dicomnode.errors import RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.monitoring import metrics
from dicomnode.monitoring.health import Verdict, judge_health, judge_readiness, no_ledger
from dicomnode.monitoring.snapshot import Snapshot, look
from dicomnode.settings.config import Config

PATHS = ("/metrics", "/healthz", "/readyz")

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """One answer: HTTP status, media type, bytes."""

    status: int
    content_type: str
    body: bytes


def respond(path: str, config: Config, ledger: Ledger, now: float) -> Page:
    """Answer one address.

    Parameters
    ----------
    path
        Without a query; 404 for one that is not in `PATHS`.
    now
        Seconds since the epoch.
    """
    if path not in PATHS:
        return Page(404, _TEXT, f"there is {', '.join(PATHS)}\n".encode())
    try:
        snapshot = look(config, ledger, now)
    except RetryLater as problem:
        if path == "/metrics":
            return Page(503, _TEXT, f"{problem}\n".encode())
        return _page_of(no_ledger(str(problem)))
    if path == "/metrics":
        return Page(200, metrics.CONTENT_TYPE, metrics.render(snapshot))
    return _page_of(_JUDGES[path](snapshot, config.monitoring.silent_s))


def _page_of(verdict: Verdict) -> Page:
    status = {"status": "ok" if verdict.is_well else "not ok", "checks": dict(verdict.checks)}
    return Page(200 if verdict.is_well else 503, _JSON, json.dumps(status, indent=2).encode() + b"\n")


_JUDGES: dict[str, Callable[[Snapshot, float], Verdict]] = {
    "/healthz": judge_health,
    "/readyz": judge_readiness,
}
