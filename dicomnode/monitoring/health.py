"""Whether the node lives, and whether it can take studies now: /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dicomnode.monitoring.snapshot import SIDES, Snapshot
from pipeline.counts import counted


@dataclass(frozen=True)
class Verdict:
    """What was looked at, each "ok" or a sentence that says what is wrong."""

    checks: Mapping[str, str]

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return set(self.checks.values()) <= {"ok"}


def judge_health(snapshot: Snapshot, silent_s: float) -> Verdict:
    """Return whether the ledger answers and both sides live."""
    return Verdict({"ledger": "ok", **{side: _alive(snapshot, side, silent_s) for side in SIDES}})


def judge_readiness(snapshot: Snapshot, silent_s: float) -> Verdict:
    """Return whether a study that is sent now would be taken and answered."""
    checks = dict(judge_health(snapshot, silent_s).checks)
    checks["disk"] = _room(snapshot)
    limit = snapshot.maximum_open_studies
    checks["queue"] = (
        "ok"
        if snapshot.open_studies <= limit
        else f"{counted(snapshot.open_studies, 'study waits', 'studies wait')}, "
        f"more than network.maximum_open_studies ({limit})"
    )
    return Verdict(checks)


def no_ledger(reason: str) -> Verdict:
    """Return the verdict where the ledger does not answer."""
    return Verdict({"ledger": reason})


def _alive(snapshot: Snapshot, side: str, silent_s: float) -> str:
    silence_s = snapshot.silent_s(side)
    if silence_s is None:
        return f"`dicomnode {side}` was never started"
    return "ok" if silence_s <= silent_s else f"no sign of life for {silence_s:.0f} s"


def _room(snapshot: Snapshot) -> str:
    disk = snapshot.disk
    if disk is None:
        return "the file system of storage.root does not answer"
    if disk.free_bytes < disk.minimum_free_bytes:
        return f"{disk.free_bytes >> 20} MiB free, less than storage.minimum_free_mb"
    return "ok"
