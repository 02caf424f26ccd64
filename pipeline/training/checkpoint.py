"""Checkpoints: weights, averaged weights, optimiser and counters in one file that is never unpickled as code."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.training.build import Network, build_network
from pipeline.training.network import Architecture


class CheckpointError(ValueError):
    """A checkpoint cannot be used: unreadable, incomplete, or of another architecture."""


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
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write next to `path`, then rename, so an interrupted run keeps the checkpoint before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(
            {
                "architecture": self.architecture.to_dict(), "weights": self.weights, "average": self.average,
                "optimiser": self.optimiser, "step": self.step, "seconds": self.seconds,
            },
            part,
        )  # fmt: skip
        part.replace(path)

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
        raise CheckpointError(f"{path.name} holds {architecture}, but {expected} is to be trained")
    return checkpoint
