"""Checkpoints: weights, averaged weights, optimiser and counters in one file.

The file is never unpickled as code.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.training.build import Network, build_network
from pipeline.training.network import Architecture
from pipeline.training.problem import TrainingProblem


class CheckpointError(TrainingProblem):
    """A checkpoint cannot be used (unreadable, incomplete, of another architecture) or cannot be written."""


@dataclass(eq=False)
class Checkpoint:
    """The state of one run.

    Attributes
    ----------
    weights, average
        State dictionaries: the raw weights, and their exponential moving average (which is what is shipped).
    optimiser
        State dictionary of AdamW; empty for a warm start.
    step
        Optimiser steps so far, over all runs that this one continues.
    seconds
        Training time so far, over all runs.
    run_steps, run_seconds
        The same for this run alone: its place in its schedule.
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    run_steps: int = 0
    run_seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write next to `path`, then rename, so an interrupted run keeps the checkpoint before.

        Raises
        ------
        CheckpointError
            It cannot be written (the disk is full, say); the checkpoint before is still there.
        """
        partial_file = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "architecture": self.architecture.to_dict(),
                    "weights": self.weights, "average": self.average,
                    "optimiser": self.optimiser, "step": self.step, "seconds": self.seconds,
                    "run_steps": self.run_steps, "run_seconds": self.run_seconds,
                },
                partial_file,
            )  # fmt: skip
            partial_file.replace(path)
        except (OSError, RuntimeError) as problem:
            partial_file.unlink(missing_ok=True)
            kept_sentence = "the checkpoint before is kept" if path.exists() else "there is none before it"
            raise CheckpointError(
                f"step {self.step} could not be written to {path}: {problem}; {kept_sentence}. Free "
                "space on that disk, then run the same command again"
            ) from None

    def started_anew(self) -> Checkpoint:
        """Return the same weights at the beginning of a run of their own."""
        return replace(self, run_steps=0, run_seconds=0.0)

    def averaged_network(self) -> Network:
        """Return the network with the averaged weights, in evaluation mode."""
        network = build_network(self.architecture)
        network.load_state_dict(self.average)
        return network.eval()


def load_checkpoint(path: Path, expected: Architecture | None = None) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or its architecture is not `expected`.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        architecture = Architecture.from_dict(values.pop("architecture"))
        checkpoint = Checkpoint(architecture, **values)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path.name} is not a checkpoint of this project: {error}") from error
    if expected is not None and architecture != expected:
        raise CheckpointError(
            f"{path.name} holds {architecture}, but {expected} is to be trained: use another "
            "folder or another --task"
        )
    return checkpoint
