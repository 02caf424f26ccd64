"""A training task: what a sample is, and how the trainer varies it.

The tasks themselves stand in `families/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.training.network import PLANES, Architecture
from pipeline.training.synthesis.anatomy import Anatomy
from pipeline.training.synthesis.fields import Grid
from pipeline.training.synthesis.subject import (
    LESION_GRID,
    Case,
    synthesise_head_case,
    synthesise_lesion_case,
)

ROLES = ("t1", "flair")
# T1 alone is by far the slowest to learn, so it gets the largest share.
SHARES = {"t1+flair": 0.27, "t1": 0.47, "flair": 0.26}


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
        Shape of random crops, or None to train on whole grids only; as wide as the grid for a network that
        compares the sides.
    gain
        Largest random change of a channel's intensity.
    threshold
        Fixed probability threshold; None lets validation choose one for each combination.
    focus
        Share of the crops, or of a 2D network's slices, that are placed on a lesion where there is one.
    slices
        How many slices of each sample a 2D network is trained on in one step.
    samples_per_step
        How many samples make one step.
    transplants
        Share of the subjects with a lesion whose lesion is cut out of another subject
        (`synthesis.transplant`).
    """

    name: str
    grid: Grid
    architecture: Architecture
    combinations: dict[str, float]
    crop: tuple[int, int, int] | None = None
    gain: float = 0.1
    threshold: float | None = None
    focus: float = 0.0
    slices: int = 0
    samples_per_step: int = 1
    transplants: float = 0.0

    def synthesise(
        self, anatomy: Anatomy, seed: int, maps: Sequence[Path] = (), *, compared: bool = False
    ) -> Case:
        """Make one sample from its seed; with `compared` it says where its lesions show."""
        if self.name == "lesion":
            return synthesise_lesion_case(anatomy, seed, maps, self.grid, self.transplants, compared=compared)
        return synthesise_head_case(anatomy, seed, maps, self.grid)


def keep_channels(image: Tensor, channels: Sequence[str], combination: str) -> Tensor:
    """Return a copy in which the channels outside `combination` are zero.

    The shape is (..., channel, slice, row, column).
    """
    kept_channels = set(combination.split("+"))
    if unknown := kept_channels - set(channels):
        raise ValueError(f"{sorted(unknown)} are not channels of this network: {list(channels)}")
    weights = torch.tensor([1.0 if c in kept_channels else 0.0 for c in channels], dtype=image.dtype)
    return image * weights[:, None, None, None]


def vary(
    image: Tensor, label: Tensor, task: Task, generator: torch.Generator, crop_share: float
) -> tuple[Tensor, Tensor]:
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
    if task.slices:
        slice_numbers = _draw_slices(label, task, generator)
        axis = PLANES[task.architecture.plane]
        image, label = image.index_select(1 + axis, slice_numbers), label.index_select(axis, slice_numbers)
    if task.crop is not None and draw() < crop_share:
        box = _draw_box(label, task.crop, task.focus, generator)
        image, label = image[(slice(None), *box)], label[box]
    gains = 1.0 + task.gain * (2.0 * torch.rand(image.shape[0], 1, 1, 1, generator=generator) - 1.0)
    # What no remaining channel shows cannot be asked for.
    inside_image = (image != 0).any(dim=0)
    return (image * gains)[None], (label * inside_image)[None, None]


def _draw_slices(label: Tensor, task: Task, generator: torch.Generator) -> Tensor:
    """Return different slice numbers, a share of them through a lesion where there is one."""
    axis = PLANES[task.architecture.plane]
    holding = label.movedim(axis, 0).flatten(1).any(dim=1)
    # Drawn without putting back: all that hold a lesion together weigh what the focus says.
    share = task.focus if holding.any() and not holding.all() else 0.0
    weights = (
        torch.full(holding.shape, (1 - share) / max(int((~holding).sum()), 1))
        if share
        else torch.ones(holding.shape)
    )
    if share:
        weights[holding] = share / int(holding.sum())
    return torch.multinomial(weights, task.slices, generator=generator)


def _draw_box(
    label: Tensor, crop: tuple[int, ...], focus: float, generator: torch.Generator
) -> tuple[slice, ...]:
    """Return a random box; with probability `focus` it holds a random lesion voxel where there is one."""
    drawn = torch.rand(4, generator=generator).tolist()
    voxels = label.nonzero() if drawn[3] < focus else label.new_zeros((0, 3))
    starts = []
    voxel = voxels[int(torch.randint(len(voxels), (), generator=generator))].tolist() if len(voxels) else None
    for axis, (size, room, share) in enumerate(zip(crop, label.shape, drawn[:3], strict=True)):
        low, high = (
            (0, room - size)
            if voxel is None
            else (max(0, voxel[axis] - size + 1), min(room - size, voxel[axis]))
        )
        starts.append(int(low + share * (high - low + 1)))
    return tuple(slice(start, start + size) for start, size in zip(starts, crop, strict=True))


def planar_task(plane: str, widths: tuple[int, ...], *, mirrored: bool = False) -> Task:
    """Return the task of a 2D network over the slices of one plane."""
    architecture = Architecture(ROLES, widths, pyramid=False, plane=plane, mirrored=mirrored)
    return Task("lesion", LESION_GRID, architecture, SHARES, focus=0.5, slices=4, samples_per_step=4)
