"""Group commit: callers that come while a transaction runs share the next one.

Rules for this file:
1. It knows no table and no database: it gathers calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

_Item = TypeVar("_Item")
_Outcome = TypeVar("_Outcome")


class _Call(Generic[_Item, _Outcome]):
    def __init__(self, item: _Item) -> None:
        self.item = item
        self.result: _Outcome | Exception | None = None


class Gather(Generic[_Item, _Outcome]):
    """Calls `handle_all` with everything that has piled up, never twice at once.

    Each caller gets its own outcome or exception.

    Parameters
    ----------
    handle_all
        Items -> one outcome or exception per item, in their order; what it raises is raised to every caller
        of the group.
    """

    def __init__(self, handle_all: Callable[[Sequence[_Item]], Sequence[_Outcome | Exception]]) -> None:
        self._handle_all = handle_all
        self._waiting: list[_Call[_Item, _Outcome]] = []
        self._gate = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, item: _Item) -> _Outcome:
        """Handle an item, perhaps together with those of other threads."""
        call: _Call[_Item, _Outcome] = _Call(item)
        with self._gate:
            self._waiting.append(call)
        with self._turn:
            # Whoever had the turn before may have taken this call along.
            if call.result is None:
                self._handle_waiting()
        if isinstance(call.result, Exception):
            raise call.result
        return cast("_Outcome", call.result)

    def _handle_waiting(self) -> None:
        with self._gate:
            group, self._waiting = self._waiting, []
        try:
            results = self._handle_all([call.item for call in group])
        except Exception as fault:  # noqa: BLE001 - it belongs to every caller of the group, and each is told
            results = [fault] * len(group)
        for call, result in zip(group, results, strict=True):
            call.result = result
