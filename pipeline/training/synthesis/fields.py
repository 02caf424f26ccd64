"""Building blocks on a voxel grid: the grid itself, smooth noise, blurs and resampling along one axis.

Everything random comes from a `torch.Generator` that is passed in. Arrays are (slice, row, column).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A regular grid in axial canonical order.

    Attributes
    ----------
    shape
        Voxels along (slice, row, column).
    spacing_mm
        Voxel size along the same axes.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return math.prod(self.spacing_mm) / 1000.0


class Dice:
    """Named draws from one generator, so that the synthesis reads as a recipe."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def twin(self) -> Dice:
        """Return a second set of dice that will fall as these do."""
        twin = Dice(0)
        twin.generator.set_state(self.generator.get_state())
        return twin

    def uniform(self, low: float, high: float) -> float:
        """Return one number between `low` and `high`."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """Return one number whose logarithm is uniform."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return float(torch.rand((), generator=self.generator)) < probability

    def integer(self, high: int) -> int:
        """Return an integer from 0 to high - 1."""
        return int(torch.randint(high, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers of this shape."""
        return torch.randn(shape, generator=self.generator)


def smooth_noise(grid: Grid, wavelength_mm: float, dice: Dice) -> Tensor:
    """Return noise of about unit deviation that varies over `wavelength_mm`, shape `grid.shape`."""
    cells = [n * s / wavelength_mm for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    coarse = [max(2, math.ceil(c) + 2) for c in cells]
    values = dice.normal(1, 1, *coarse)
    # The coarse knots start at a random offset: with fixed knots every subject would vary at the same places.
    offsets = [dice.uniform(0.0, 1.0) for _ in range(3)]
    for axis, (count, cell, offset) in enumerate(zip(grid.shape, cells, offsets, strict=True)):
        positions = offset + torch.arange(count) * (cell / count)
        values = _interpolate_axis(values, positions, axis + 2)
    return values[0, 0] * 1.6


def _interpolate_axis(values: Tensor, positions: Tensor, axis: int) -> Tensor:
    """Sample linearly at `positions` (in knots) along one axis, as a product with a sparse-looking matrix."""
    knots = torch.arange(values.shape[axis], dtype=torch.float32)
    weights = (1.0 - (positions[:, None] - knots[None]).abs()).clamp_min(0.0)
    return apply_along(values, weights, axis)


def apply_along(values: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply by `matrix` (new length, old length) along one axis."""
    axis = axis % values.ndim
    if axis == values.ndim - 1:
        return values @ matrix.T
    moved = values.reshape(*values.shape[: axis + 1], -1)
    return (matrix @ moved).reshape(*values.shape[:axis], matrix.shape[0], *values.shape[axis + 1 :])


def gaussian_matrix(count: int, sigma_voxels: float) -> Tensor:
    """Return the (count, count) matrix of a Gaussian blur whose rows sum to one."""
    index = torch.arange(count, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((index[:, None] - index[None]) / max(sigma_voxels, 1e-3)) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def blur(values: Tensor, sigmas_voxels: tuple[float, float, float]) -> Tensor:
    """Blur the last three axes; a sigma below 0.15 voxels leaves its axis alone."""
    for axis, sigma in zip((-3, -2, -1), sigmas_voxels, strict=True):
        if sigma >= 0.15:
            values = apply_along(values, gaussian_matrix(values.shape[axis], sigma), axis)
    return values


def blur_mm(values: Tensor, sigma_mm: float, grid: Grid) -> Tensor:
    """Blur by the same width in mm along each axis of `grid`."""
    z, y, x = (sigma_mm / s for s in grid.spacing_mm)
    return blur(values, (z, y, x))


def sample(volume: Tensor, positions: Tensor, *, border: bool = False) -> Tensor:
    """Sample (channels, slice, row, column) linearly at voxel `positions` (slice, row, column, 3).

    Outside the volume the result is zero, or the nearest border value where `border` is set.
    """
    sizes = torch.tensor(volume.shape[-3:], dtype=torch.float32)
    unit = positions / (sizes - 1) * 2 - 1
    return F.grid_sample(
        volume[None],
        unit.flip(-1)[None],
        mode="bilinear",
        padding_mode="border" if border else "zeros",
        align_corners=True,
    )[0]


def smoothstep(values: Tensor, edge: float | Tensor, width: float) -> Tensor:
    """Return a soft step: 1 well below `edge`, 0 well above, with a transition of about `width`."""
    return torch.sigmoid((edge - values) * (4.0 / width))
