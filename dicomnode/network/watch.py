"""Watches associations that store something: that they began, and whether their sender released them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from dicomnode.network import status
from dicomnode.network.handlers import AnswerStore, StoreRequest
from dicomnode.records import AssociationNews

AssociationListener = Callable[[AssociationNews], None]
"""Hears of an association that stored its first instance, and again when that association has ended."""


def ignore_associations(_news: AssociationNews) -> None:
    """Listen to nothing."""


class AssociationWatch:
    """One association's stores and its end, for a listener that is never waited for.

    Parameters
    ----------
    listener
        Called from the association's threads; it must return at once and raise nothing.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self, calling_ae: str, peer_host: str, listener: AssociationListener, clock: Callable[[], float]
    ) -> None:
        self._listener, self._clock = listener, clock
        self._news = AssociationNews(uuid4().hex, calling_ae, peer_host, clock())
        self._has_stored = False

    def watch_stores(self, answer_store: AnswerStore) -> AnswerStore:
        """Return the handler, watched: the first instance that is acknowledged is news."""

        def answer(request: StoreRequest) -> int:
            answer_status = answer_store(request)
            if answer_status == status.SUCCESS and not self._has_stored:
                self._has_stored = True
                self._listener(self._news)
            return answer_status

        return answer

    def end(self, *, is_released: bool) -> None:
        """Note how the association ended; nothing is said of one that stored nothing."""
        if self._has_stored:
            self._listener(replace(self._news, ended_at=self._clock(), is_released=is_released))
