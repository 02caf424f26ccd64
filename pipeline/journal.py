"""What one run of the pipeline did and noticed: step records and findings, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.records import Finding, StepRecord

Progress = Callable[[str], None]


@dataclass
class Journal:
    """Collects the step records and findings of one run."""

    progress: Progress | None = None
    steps: list[StepRecord] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step; what it puts into the mapping becomes the record's parameters."""
        if self.progress is not None:
            self.progress(name.replace("_", " "))
        parameters: dict[str, Any] = {}
        started = time.perf_counter()
        yield parameters
        self.steps.append(StepRecord(name, parameters, time.perf_counter() - started))
