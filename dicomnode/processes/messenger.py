"""Tells the working side what `receive` has made safe, without a sender ever waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from dicomnode.errors import RetryLater
from dicomnode.records import AddOutcome, AssociationNews, ReceivedInstance

log = structlog.get_logger()

# Rings and rows are gathered for so long; `work` hears of the last image of a study after at most that.
_GATHER_S = 0.05
_AGAIN_S = 0.5
_MOST_NEWS = 10_000

AddInstance = Callable[[ReceivedInstance], AddOutcome]


class Messenger:
    """Writes the news of associations into the ledger and rings `work`, in a thread of its own.

    Parameters
    ----------
    record
        Notes news in the ledger; may raise `RetryLater`.
    ring
        Rings the working side.
    """

    def __init__(
        self, record: Callable[[Sequence[AssociationNews]], None], ring: Callable[[], object]
    ) -> None:
        self._record, self._ring = record, ring
        self._gate = threading.Lock()
        self._news: list[AssociationNews] = []
        self._something_came = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="messenger", daemon=True)
        self._thread.start()

    def watch(self, add_instance: AddInstance) -> AddInstance:
        """Return what lists an instance, watched: whatever it lists is news."""

        def add(instance: ReceivedInstance) -> AddOutcome:
            outcome = add_instance(instance)
            self.note_listed()
            return outcome

        return add

    def note_listed(self) -> None:
        """Note that instances were listed."""
        self._something_came.set()

    def note_association(self, news: AssociationNews) -> None:
        """Note that an association has begun to store, or has ended."""
        with self._gate:
            # While the ledger is away for long, the oldest are let go: nothing is concluded of those senders.
            self._news = [*self._news, news][-_MOST_NEWS:]
        self._something_came.set()

    def close(self) -> None:
        """Write what there is and end."""
        self._stopping.set()
        self._something_came.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._something_came.wait()
            self._something_came.clear()
            if not self._deliver() and not self._stopping.wait(_AGAIN_S):
                self._something_came.set()
            self._stopping.wait(_GATHER_S)
        self._deliver()

    def _deliver(self) -> bool:
        with self._gate:
            news, self._news = self._news, []
        try:
            if news:
                self._record(news)
        except RetryLater:
            with self._gate:
                self._news = news + self._news
            return False
        except Exception as bug:  # noqa: BLE001  without this news a study only waits for the clock
            log.error("association_not_noted", error=type(bug).__name__)  # noqa: TRY400
        finally:
            self._ring()
        return True
