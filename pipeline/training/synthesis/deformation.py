"""One subject's geometry: which template coordinate lies at each voxel of the output grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.training.synthesis.anatomy import Anatomy
from pipeline.training.synthesis.fields import Dice, Grid, apply_along, sample, smooth_noise

BRAIN_CENTRE_MM = (6.0, 17.0, 0.0)
"""Middle of the average brain in template coordinates (up, to posterior, to the left)."""


SHRINK = 1.1
"""The average brain of the template holds about 1.9 L inside its outline; adults have 1.1 to 1.8 L."""


def draw_coordinates(
    anatomy: Anatomy,
    grid: Grid,
    dice: Dice,
    *,
    centre_mm: tuple[float, float, float] = BRAIN_CENTRE_MM,
    shift_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
) -> Tensor:
    """Draw one head's shape.

    Parameters
    ----------
    centre_mm
        Template coordinate that falls on the middle of the grid, before the random shift.
    shift_mm
        Largest shift along each axis.

    Returns
    -------
    Tensor
        Template coordinates in mm, shape (slice, row, column, 3).
    """
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    shift = torch.tensor([dice.uniform(-s, s) for s in shift_mm])
    positions = (offsets + shift) @ draw_affine(dice, 12.0, 0.12, 0.07, 0.03).T * SHRINK + torch.tensor(
        centre_mm
    )
    strength = dice.uniform(0.3, 1.3)
    for wavelength, amplitude in ((48.0, 4.5), (24.0, 2.2), (12.0, 1.1)):
        noise = [smooth_noise(grid, wavelength, dice) for _ in range(3)]
        positions += torch.stack(noise, dim=-1) * (amplitude * 0.55 * strength)
    return positions - _ventricle_push(anatomy, positions, dice)


def draw_affine(dice: Dice, degrees: float, scale: float, anisotropy: float, shear: float) -> Tensor:
    """Draw a (3, 3) matrix: rotation about each axis up to `degrees`, then scales and shear.

    There is one scale for all axes, then one for each.
    """
    matrix = torch.eye(3)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(dice.uniform(-degrees, degrees))
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    overall_scale = 1.0 + dice.uniform(-scale, scale)
    stretch = torch.diag(
        torch.tensor([overall_scale * (1.0 + dice.uniform(-anisotropy, anisotropy)) for _ in range(3)])
    )
    slant = torch.eye(3)
    for row in range(3):
        for column in range(3):
            if row != column:
                slant[row, column] = dice.uniform(-shear, shear)
    return matrix @ stretch @ slant


def _ventricle_push(anatomy: Anatomy, positions: Tensor, dice: Dice) -> Tensor:
    """Return how far to look back towards the ventricles: positive widens them, unequally left and right."""
    if dice.chance(0.6):
        strength, asymmetry = dice.uniform(-1.5, 4.0), dice.uniform(-3.0, 3.0)
    else:
        strength, asymmetry = dice.uniform(2.0, 9.0), dice.uniform(-5.0, 5.0)
    # The push is smooth, so every second voxel is enough.
    push = sample(anatomy.distances[3:6], distance_index(anatomy, positions[::2, ::2, ::2]), border=True)
    for axis, count in enumerate(positions.shape[:3]):
        knots = torch.arange((count + 1) // 2) * 2.0
        weights = (
            1.0 - (torch.arange(count)[:, None].clamp_max(knots[-1]) - knots[None]).abs() / 2.0
        ).clamp_min(0.0)
        push = apply_along(push, weights, axis + 1)
    amount = strength + asymmetry * torch.tanh(positions[..., 2] / 8.0)
    return push.movedim(0, -1) * amount[..., None]


def distance_index(anatomy: Anatomy, positions: Tensor) -> Tensor:
    """Return voxel positions in the 2 mm maps."""
    return (positions - torch.tensor(anatomy.distances_origin_mm)) / 2.0


def tissue_index(anatomy: Anatomy, positions: Tensor) -> Tensor:
    """Return voxel positions in the 1 mm tissue maps."""
    return positions - torch.tensor(anatomy.tissue_origin_mm)
