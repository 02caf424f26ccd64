"""One look at the node: what the ledger counts, the disk, the certificates."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import FailingLine, Health
from dicomnode.network.tls import expires_in_days
from dicomnode.settings.config import Config

SIDES = ("receive", "work")
"""The processes without which the node does not do its work."""


@dataclass(frozen=True)
class Disk:
    """The file system of `storage.root`, in bytes; `minimum_free_bytes` is where receiving stops."""

    free_bytes: int
    total_bytes: int
    minimum_free_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """The node at one moment.

    Attributes
    ----------
    now
        Seconds since the epoch.
    figures
        Name -> label -> value, as `dicomnode.ledger.figures` keeps them.
    certificates
        Setting -> days that its certificate is good yet; None where it cannot be read.
    disk
        None where it cannot be asked.
    """

    now: float
    health: Health
    failing: tuple[FailingLine, ...]
    figures: Mapping[str, Mapping[str, float]]
    destinations: tuple[str, ...]
    certificates: Mapping[str, float | None]
    disk: Disk | None
    open_studies: int
    maximum_open_studies: int

    def silent_s(self, side: str) -> float | None:
        """Return for how long a side has given no sign of life; None when it never did."""
        alive_at = self.figures.get("alive", {}).get(side)
        return None if alive_at is None else max(0.0, self.now - alive_at)


def look(config: Config, ledger: Ledger, now: float) -> Snapshot:
    """Look at the node; `RetryLater` when the ledger is away."""
    return Snapshot(
        now=now,
        health=ledger.history.health(),
        failing=ledger.history.failing(),
        figures=ledger.figures.read(),
        destinations=tuple(destination.name for destination in config.destinations),
        certificates=_certificates(config, now),
        disk=_disk(config),
        open_studies=ledger.jobs.count_open(),
        maximum_open_studies=config.network.maximum_open_studies,
    )


def _disk(config: Config) -> Disk | None:
    try:
        usage = shutil.disk_usage(config.storage.root)
    except OSError:
        return None
    return Disk(usage.free, usage.total, config.storage.minimum_free_mb * 2**20)


def _certificates(config: Config, now: float) -> dict[str, float | None]:
    files = {"tls.certificate": config.tls.certificate, "compute.certificate": config.compute.certificate}
    return {setting: _days(file, now) for setting, file in files.items() if file is not None}


def _days(file: Path, now: float) -> float | None:
    try:
        return expires_in_days(file, now)
    except (OSError, ValueError):
        return None
