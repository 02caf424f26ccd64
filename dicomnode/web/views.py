"""Which views were audited a moment ago: the hundred slices of one look at a study are one view."""

from __future__ import annotations

import threading
from collections import OrderedDict

_QUIET_S = 300.0
_MOST_VIEWS = 5000


class RecentViews:
    """Remembers views for five minutes. Thread-safe and bounded: what is forgotten is audited once more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen_at: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def is_new(self, view: tuple[str, ...], now: float) -> bool:
        """Return whether a view did not happen within the last minutes, and remember it."""
        with self._lock:
            before = self._seen_at.get(view)
            if before is not None and 0 <= now - before < _QUIET_S:
                return False
            self._seen_at[view] = now
            self._seen_at.move_to_end(view)
            while len(self._seen_at) > _MOST_VIEWS:
                self._seen_at.popitem(last=False)
            return True
