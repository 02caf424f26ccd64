"""Answers that are computed while their study still waits for its evidence or for the quiet.

Such an answer is an answer to one `StudyTask`. It leaves only when the study becomes ready with that very
task; when anything of it changed, its files are removed and the study is computed anew.

Rules for this file:
1. What is ready goes first: nothing is computed ahead while a study that may leave waits for a worker.
2. One revision of a study is never computed twice at the same time: both would write the same files.
3. What goes wrong here is not counted as a try of the study; it is computed again when it is ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from dicomnode.answer import StudyAnswer, StudyTask
from dicomnode.spool.layout import SpoolLayout

_LOOK_S = 0.05
_TICK_S = 5.0


@dataclass(frozen=True)
class EarlyAnswer:
    """The answer to a task; None where computing it failed."""

    task: StudyTask
    answer: StudyAnswer | None
    content: Hashable = None


class Ahead:
    """What may be computed ahead, what is being computed, and the answers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._candidates: dict[int, Hashable] = {}
        self._under_way: set[int] = set()
        self._answers: dict[int, EarlyAnswer] = {}

    def offer(self, candidates: Mapping[int, Hashable]) -> None:
        """Note which waiting jobs may be computed ahead, the oldest first, and what marks their content."""
        with self._lock:
            self._candidates = dict(candidates)

    def candidates(self) -> tuple[int, ...]:
        """Return the jobs that may be computed ahead, and are neither computed nor being computed."""
        with self._lock:
            return tuple(
                job_id
                for job_id, content in self._candidates.items()
                if job_id not in self._under_way
                and (job_id not in self._answers or self._answers[job_id].content != content)
            )

    def compute(
        self, layout: SpoolLayout, job_id: int, task: StudyTask, run: Callable[[StudyTask], StudyAnswer]
    ) -> bool:
        """Compute the answer to a task; False where it is there, or is being computed."""
        with self._lock:
            early = self._answers.get(job_id)
            if job_id in self._under_way or (early is not None and early.task == task):
                return False
            self._under_way.add(job_id)
            content = self._candidates.get(job_id)
        answer: StudyAnswer | None = None
        try:
            _remove_files(layout, early)
            answer = run(task)
        finally:
            with self._lock:
                self._under_way.discard(job_id)
                self._answers[job_id] = EarlyAnswer(task, answer, content)
        return True

    def take(
        self, layout: SpoolLayout, job_id: int, task: StudyTask, tick: Callable[[], None]
    ) -> StudyAnswer | None:
        """Return the answer to a task that is answered now, or None; waits for one that is being computed.

        `tick` is called every few seconds meanwhile. An answer to another task is dropped with its files.
        """
        waited_s, pause = 0.0, threading.Event()
        while True:
            with self._lock:
                if job_id not in self._under_way:
                    early = self._answers.pop(job_id, None)
                    break
            pause.wait(_LOOK_S)
            waited_s += _LOOK_S
            if waited_s >= _TICK_S:
                waited_s = 0.0
                tick()
        if early is not None and early.task == task:
            return early.answer
        _remove_files(layout, early)
        return None

    def forget_ended(self, layout: SpoolLayout, open_jobs: Collection[int]) -> None:
        """Drop the answers to jobs that are no longer open and were not taken."""
        with self._lock:
            gone = [job_id for job_id in self._answers if job_id not in open_jobs]
            dropped = [self._answers.pop(job_id) for job_id in gone if job_id not in self._under_way]
        for early in dropped:
            _remove_files(layout, early)


def _remove_files(layout: SpoolLayout, early: EarlyAnswer | None) -> None:
    """Remove what an answer that nobody will get has left in the spool."""
    if early is None or early.answer is None:
        return
    paths = [file.path for file in early.answer.results]
    montage = early.answer.detail.get("montage")
    for path in [*paths, *([montage] if montage else [])]:
        with suppress(OSError):
            (layout.root / path).unlink(missing_ok=True)
