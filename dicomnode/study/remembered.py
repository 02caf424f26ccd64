"""Judgements on studies that wait, remembered while nothing of such a study changes.

A study that waits is looked at every second, and reading its headers anew each time costs most of that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from dicomnode.study.patience import Judgement


@dataclass(frozen=True)
class StudyView:
    """What the headers of a study show, and whether its images agree on patient and order."""

    judgement: Judgement
    agrees_on_patient: bool


class RememberedViews:
    """The view of each waiting study, made anew when its mark changes. Thread-safe.

    Of more than `most_studies` the one that was made first is forgotten.
    """

    def __init__(self, most_studies: int = 100_000) -> None:
        self._most_studies = most_studies
        self._lock = threading.Lock()
        self._views: dict[str, tuple[Hashable, StudyView]] = {}

    def view(self, StudyInstanceUID: str, mark: Hashable, look: Callable[[], StudyView]) -> StudyView:
        """Return the view of a study; `look` makes it where there is none for this mark."""
        with self._lock:
            remembered = self._views.get(StudyInstanceUID)
        if remembered is not None and remembered[0] == mark:
            return remembered[1]
        view = look()
        with self._lock:
            self._views.pop(StudyInstanceUID, None)
            self._views[StudyInstanceUID] = (mark, view)
            if len(self._views) > self._most_studies:
                del self._views[next(iter(self._views))]
        return view

    def keep_only(self, studies: Collection[str]) -> None:
        """Forget every study but these."""
        with self._lock:
            self._views = {uid: entry for uid, entry in self._views.items() if uid in studies}
