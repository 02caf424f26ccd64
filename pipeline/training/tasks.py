"""The two things that are trained, as one table: what a sample is and how the trainer varies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.training.network import Architecture
from pipeline.training.synthesis.anatomy import Anatomy
from pipeline.training.synthesis.fields import Grid
from pipeline.training.synthesis.subject import (
    HEAD_GRID,
    LESION_GRID,
    Case,
    synthesise_head_case,
    synthesise_lesion_case,
)


@dataclass(frozen=True)
class Task:
    """One network's training task.

    Attributes
    ----------
    name
        "lesion" or "brain", as in the manifest.
    combinations
        Channel combinations with their share of the training steps; missing channels are zeroed.
    crop
        Shape of random crops, or None to train on whole grids only.
    gain
        Largest random change of a channel's intensity.
    threshold
        Fixed probability threshold; None lets validation choose one for each combination.
    """

    name: str
    grid: Grid
    architecture: Architecture
    combinations: dict[str, float]
    crop: tuple[int, int, int] | None = None
    gain: float = 0.1
    threshold: float | None = None

    def synthesise(self, anatomy: Anatomy, seed: int, maps: Sequence[Path] = ()) -> Case:
        """Make one sample from its seed."""
        make = synthesise_lesion_case if self.name == "lesion" else synthesise_head_case
        return make(anatomy, seed, maps, self.grid)


TASKS = {
    "lesion": Task(
        "lesion", LESION_GRID, Architecture(("t1", "flair"), (8, 24, 48, 96, 128)),
        # T1 alone is by far the slowest to learn, so it gets the largest share.
        {"t1+flair": 0.27, "t1": 0.47, "flair": 0.26}, crop=(64, 80, 64),
    ),
    "brain": Task("brain", HEAD_GRID, Architecture(("any",), (8, 16, 32, 64, 96), pyramid=False), {"any": 1.0}, threshold=0.5),
    "tiny": Task(
        "lesion", Grid((32, 32, 32), (5.0, 6.0, 5.0)), Architecture(("t1", "flair"), (4, 8, 8), 1),
        {"t1+flair": 0.4, "t1": 0.3, "flair": 0.3},
    ),
}  # fmt: skip
"""Name on the command line to task; "tiny" exists for the tests."""


def keep_channels(image: Tensor, channels: Sequence[str], combination: str) -> Tensor:
    """Return a copy of (..., channel, slice, row, column) with the channels outside `combination` set to zero."""
    kept = set(combination.split("+"))
    if unknown := kept - set(channels):
        raise ValueError(f"{sorted(unknown)} are not channels of this network: {list(channels)}")
    weights = torch.tensor([1.0 if c in kept else 0.0 for c in channels], dtype=image.dtype)
    return image * weights[:, None, None, None]


def vary(image: Tensor, label: Tensor, task: Task, generator: torch.Generator, crop_share: float) -> tuple[Tensor, Tensor]:
    """Return one training example from a pooled sample: channels dropped, flipped, cropped, gain changed.

    `image` is (channel, slice, row, column), `label` (slice, row, column); the results have a batch axis.
    """

    def draw() -> float:
        return float(torch.rand((), generator=generator))

    names, shares = list(task.combinations), torch.tensor(list(task.combinations.values()))
    combination = names[int(torch.multinomial(shares, 1, generator=generator))]
    image = keep_channels(image, task.architecture.channels, combination)
    if draw() < 0.5:
        image, label = image.flip(-1), label.flip(-1)
    if task.crop is not None and draw() < crop_share:
        starts = [int(draw() * (n - c + 1)) for n, c in zip(label.shape, task.crop, strict=True)]
        box = tuple(slice(a, a + c) for a, c in zip(starts, task.crop, strict=True))
        image, label = image[(slice(None), *box)], label[box]
    gains = 1.0 + task.gain * (2.0 * torch.rand(image.shape[0], 1, 1, 1, generator=generator) - 1.0)
    # What no remaining channel shows cannot be asked for.
    seen = (image != 0).any(dim=0)
    return (image * gains)[None], (label * seen)[None, None]
