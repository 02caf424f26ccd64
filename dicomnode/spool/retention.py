"""What leaves the spool: studies that are answered and delivered, when they are old enough."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import structlog

from dicomnode.audit.events import Audit, AuditEvent, silent
from dicomnode.spool.layout import SpoolLayout

log = structlog.get_logger()

_DAY_S = 86_400.0


class RetentionLedger(Protocol):
    """What retention asks of the ledger."""

    def expired_studies(self, before: float) -> list[str]:
        """Return the studies that nothing is left to do for."""

    def expire_study(self, StudyInstanceUID: str, before: float, remove: Callable[[set[str]], None]) -> bool:
        """Have the files of a study removed, then its rows; False when it is not expired any more."""

    def expired_unreadable(self, before: float) -> list[str]:
        """Return the spool paths of old instances that could not be read."""

    def expire_unreadable(self, path: str, before: float, remove: Callable[[set[str]], None]) -> bool:
        """Have the file of an instance that could not be read removed, then its row.

        False when it is not expired any more.
        """


class RetentionSettings(Protocol):
    """How long things are kept, in days."""

    @property
    def keep_days(self) -> float:
        """Days after which an answered and delivered study goes."""


def remove_expired_studies(
    rows: RetentionLedger, layout: SpoolLayout, settings: RetentionSettings, now: float, audit: Audit = silent
) -> int:
    """Remove the files and rows of everything that is older than `keep_days` and needs no more work.

    Return how many studies.
    """
    before = now - settings.keep_days * _DAY_S
    removed = 0
    for StudyInstanceUID in rows.expired_studies(before):
        # Files first: a row without a file is noticed at start, a file without a row would be taken for new
        # and answered again.
        if rows.expire_study(StudyInstanceUID, before, partial(_remove_study, layout, StudyInstanceUID)):
            log.info("study_expired", StudyInstanceUID=StudyInstanceUID)
            audit(AuditEvent("study-deleted", StudyInstanceUID=StudyInstanceUID, detail="storage.keep_days"))
            removed += 1
    for path in rows.expired_unreadable(before):
        rows.expire_unreadable(path, before, partial(_remove, layout))
    return removed


def _remove_study(layout: SpoolLayout, StudyInstanceUID: str, paths: Iterable[str]) -> None:
    _remove(layout, paths)
    # The whole folder: a montage, or what a superseded run left, has no row of its own and shows the patient
    # all the same.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(layout.root / layout.results_of(StudyInstanceUID))


def _remove(layout: SpoolLayout, paths: Iterable[str]) -> None:
    for path in paths:
        (layout.root / path).unlink(missing_ok=True)
