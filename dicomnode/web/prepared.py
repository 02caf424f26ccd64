"""Prepared images on disk: asked for by a page, made one at a time, swept after a day.

Each is made in a process of its own.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dicomnode.web.child import Child
from dicomnode.web.sources import FolderSource, StudySource
from pipeline.records import Array

_LONGEST_S = 300.0
_KEPT_S = 86_400.0
_MOST_CASES = 30


@dataclass(frozen=True)
class PrepareTask:
    """A source and the folder that the case goes to."""

    source: StudySource | FolderSource
    target: Path


@dataclass(frozen=True)
class Case:
    """Images of one study on one upright grid, as `prepare` wrote them.

    There are shape, spacing in mm, grey windows and lesions.
    """

    folder: Path
    roles: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    windows: Mapping[str, tuple[float, float, float]]
    lesions: tuple[Mapping[str, Any], ...]
    has_probability: bool

    def array(self, name: str) -> Array:
        """Return an image by its role, "labels" or "probability", read from disk as it is needed."""
        array: Array = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array


class PreparedCases:
    """Cases below a folder; one is made at a time. Thread-safe.

    `memory_bytes` is what the process that makes a case may take.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self._folder, self._memory_bytes = folder, memory_bytes
        self._lock = threading.Lock()
        self._name_of_running = ""
        self._running: Child | None = None

    def find(self, name: str) -> Case | None:
        """Return a case that is ready."""
        folder = self._folder / name
        try:
            facts = json.loads((folder / "case.json").read_text(encoding="utf-8"))
            (folder / "case.json").touch()
        except (OSError, ValueError):
            return None
        return Case(
            folder,
            tuple(facts["roles"]),
            tuple(facts["shape"]),
            tuple(facts["spacing_mm"]),
            {role: tuple(limits) for role, limits in facts["windows"].items()},
            tuple(facts["lesions"]),
            bool(facts["has_probability"]),
        )

    def ask_for(self, name: str, source: StudySource | FolderSource) -> str:
        """Have a case prepared unless it is under way; return why it cannot be, or nothing."""
        with self._lock:
            problem = ""
            if self._running is not None:
                if not self._running.is_done():
                    return ""
                problem = self._running.problem()
                is_ours, self._running = self._name_of_running == name, None
                if is_ours and problem:
                    return problem
                if is_ours:
                    return ""
            self.sweep()
            task = PrepareTask(source, self._folder / name)
            self._running = Child(_prepare, task, self._memory_bytes, _LONGEST_S)
            self._name_of_running = name
            return ""

    def sweep(self) -> None:
        """Remove cases that nobody looked at for a day, and the oldest beyond thirty."""
        cases = sorted(self._folder.glob("*/case.json"), key=_last_used, reverse=True)
        for number, path in enumerate(cases):
            if number >= _MOST_CASES or time.time() - _last_used(path) > _KEPT_S:
                shutil.rmtree(path.parent, ignore_errors=True)

    def forget(self, name: str) -> None:
        """Remove a case."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def close(self) -> None:
        """Stop what is under way."""
        with self._lock:
            if self._running is not None:
                self._running.stop()


def _prepare(task: PrepareTask) -> None:
    # Here and not above: the process of the pages needs none of what converts images.
    from dicomnode.web.prepare import prepare

    prepare(task.source, task.target)


def _last_used(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
