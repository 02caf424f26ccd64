"""What leaves the spool: studies that are answered and delivered, when they are old enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import structlog

from dicomnode.spool.layout import SpoolLayout

log = structlog.get_logger()

_DAY_S = 86_400.0


class RetentionLedger(Protocol):
    """What retention asks of the ledger."""

    def expired_studies(self, before: float) -> list[str]:
        """Return the studies that nothing is left to do for."""

    def study_paths(self, StudyInstanceUID: str) -> set[str]:
        """Return the spool paths of a study."""

    def forget_study(self, StudyInstanceUID: str) -> None:
        """Remove a study's rows."""

    def expired_unreadable(self, before: float) -> list[str]:
        """Return the spool paths of old instances that could not be read."""

    def forget_instance(self, path: str) -> None:
        """Remove an instance's row."""


class RetentionSettings(Protocol):
    """How long things are kept, in days."""

    @property
    def keep_days(self) -> float:
        """Days after which an answered and delivered study goes."""


def remove_expired_studies(ledger: RetentionLedger, layout: SpoolLayout, settings: RetentionSettings, now: float) -> int:
    """Remove the files and rows of everything that is older than `keep_days` and needs no more work; return how many studies."""
    before = now - settings.keep_days * _DAY_S
    studies = ledger.expired_studies(before)
    for StudyInstanceUID in studies:
        # Files first: a row without a file is noticed at start, a file without a row would be taken for new and answered again.
        _remove(layout, ledger.study_paths(StudyInstanceUID))
        ledger.forget_study(StudyInstanceUID)
        log.info("study_expired", StudyInstanceUID=StudyInstanceUID)
    for path in ledger.expired_unreadable(before):
        _remove(layout, (path,))
        ledger.forget_instance(path)
    return len(studies)


def _remove(layout: SpoolLayout, paths: Iterable[str]) -> None:
    folders = set()
    for path in paths:
        file = layout.root / path
        file.unlink(missing_ok=True)
        folders.add(file.parent)
    # The folders of a study's results are its own; those of received instances are shared and stay.
    for folder in sorted((folder for folder in folders if layout.results in folder.parents), reverse=True):
        for emptied in (folder, folder.parent):
            if emptied.is_dir() and not any(emptied.iterdir()):
                emptied.rmdir()
