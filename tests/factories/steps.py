"""The log of a pipeline run, read back by tests only."""

from __future__ import annotations

from typing import Any

from pipeline.records import PipelineResult


def logged(result: PipelineResult, name: str) -> dict[str, Any]:
    """Return the parameters of the last step of that name; none where it did not run."""
    return next((dict(step.parameters) for step in reversed(result.steps) if step.name == name), {})
