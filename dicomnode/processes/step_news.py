"""The step that a run is in, from the worker process that computes to the process that waits for it.

It goes as an event of Dask, over the connections that there are: also from a scheduler elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from distributed import Client, get_worker

Argument = TypeVar("Argument")
Answer = TypeVar("Answer")
Progress = Callable[[str], None]

_TOPIC = "dicomnode-steps"


def run_reporting(
    function: Callable[[Argument, Progress], Answer], argument: Argument, run_name: str
) -> Answer:
    """Run a function in a worker; the steps that it names go to whoever follows this run."""
    worker = get_worker()

    def report(step: str) -> None:
        worker.log_event(_TOPIC, {"run": run_name, "step": step})

    return function(argument, report)


class StepNews:
    """The newest step of each run that is followed. Thread-safe."""

    def __init__(self, client: Client) -> None:
        self._lock = threading.Lock()
        # Run -> its newest step that nobody has taken yet.
        self._newest: dict[str, str | None] = {}
        client.subscribe_topic(_TOPIC, self._note)

    @contextmanager
    def follow(self, run_name: str) -> Iterator[Callable[[], str | None]]:
        """Follow a run; give a function that returns its newest step, or None where there is no new one."""
        with self._lock:
            self._newest[run_name] = None

        def take() -> str | None:
            with self._lock:
                step, self._newest[run_name] = self._newest[run_name], None
                return step

        try:
            yield take
        finally:
            with self._lock:
                del self._newest[run_name]

    def _note(self, event: tuple[float, Mapping[str, Any]]) -> None:
        _, news = event
        with self._lock:
            # Runs of another node on the same scheduler are none of ours.
            if news["run"] in self._newest:
                self._newest[news["run"]] = str(news["step"])
