"""How `receive` makes instances safe and has them listed: by a journal, or each as a file of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from dicomnode.ledger.ledger import Ledger
from dicomnode.network.handlers import AddInstance
from dicomnode.processes.messenger import Messenger
from dicomnode.records import AssociationNews
from dicomnode.settings.config import Config
from dicomnode.spool.journal.replay import Replayed, remove_segments
from dicomnode.spool.journal.spool import JournalSpool
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter

log = structlog.get_logger()

_MIB = 2**20


@dataclass(frozen=True)
class Intake:
    """What makes instances safe, what lists them, and what tells `work` of both.

    Where `add_instance` is None the writer lists what it writes. `settle` returns when all that was
    acknowledged before is listed, or raises `RetryLater`.
    """

    writer: JournalSpool | SpoolWriter
    add_instance: AddInstance | None
    messenger: Messenger
    settle: Callable[[], None]

    def take_over(self, config: Config) -> None:
        """Work by a configuration that was read again."""
        self.writer.set_limits(*_free_space(config))

    def close(self) -> bool:
        """List what there is, tell of it, and end; return whether all that was acknowledged is listed."""
        all_listed = self.writer.close() if isinstance(self.writer, JournalSpool) else True
        self.messenger.close()
        return all_listed


def open_intake(config: Config, ledger: Ledger, replayed: Replayed, ring: Callable[[], object]) -> Intake:
    """Return what receiving needs.

    `replayed` is what was found of a journal, `ring` rings the working side.
    """
    if broken_off := ledger.senders.break_off_open(time.time()):
        # No association of a process before this one is open any more.
        log.info("associations_broken_off", count=broken_off)
    files = SpoolWriter(SpoolLayout(config.storage.spool), *_free_space(config))
    if not config.storage.journal_mb:
        remove_segments(replayed.empty)
        messenger = Messenger(ledger.senders.record, ring)
        return Intake(files, messenger.watch(ledger.instances.add), messenger, lambda: None)
    journal = JournalSpool(files, config.storage.journal_mb * _MIB, replayed)

    def record(news: Sequence[AssociationNews]) -> None:
        if any(association.ended_at is not None for association in news):
            # A sender has released what it sent only when `work` can see all of that.
            journal.settle()
        ledger.senders.record(news)

    messenger = Messenger(record, ring)
    journal.start(ledger.instances.add_all, messenger.note_listed)
    return Intake(journal, None, messenger, journal.settle)


def _free_space(config: Config) -> tuple[int, int]:
    """Return the limits of free space in bytes.

    Below the first nothing is taken, and from the second on instances are taken again.
    """
    return config.storage.minimum_free_mb * _MIB, config.storage.resume_free_mb * _MIB
