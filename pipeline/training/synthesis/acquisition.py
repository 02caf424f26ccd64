"""What a scanner does to an ideal image.

Coil bias, slices, blur, noise, a limited field of view, a moved patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.synthesis.deformation import draw_affine
from pipeline.training.synthesis.fields import Dice, Grid, apply_along, blur, sample, smooth_noise


@dataclass(frozen=True)
class Scan:
    """Decisions for one acquisition.

    Attributes
    ----------
    slice_axis
        Axis of the thick slices, -1 for an isotropic scan.
    step_mm
        Distance of slices.
    covered
        First and last fraction of the slice axis that is covered.
    """

    slice_axis: int
    step_mm: float
    nearest: bool
    covered: tuple[float, float]
    blur_voxels: float
    noise: float
    bias: float
    gamma: float
    moves: bool


def draw_scan(kind: str, dice: Dice) -> Scan:
    """Draw an acquisition; FLAIR is mostly thick axial slices, T1 mostly isotropic."""
    thick = dice.chance(0.7 if kind != "t1" else 0.25)
    axis = -1
    if thick:
        axis = 0 if dice.chance(0.7) else 1 + dice.integer(2)
    ends = (dice.uniform(0.0, 0.2), dice.uniform(0.82, 1.0)) if thick and dice.chance(0.25) else (0.0, 1.0)
    return Scan(
        slice_axis=axis,
        step_mm=dice.uniform(2.5, 6.5),
        nearest=dice.chance(0.15),
        covered=ends,
        blur_voxels=dice.uniform(0.0, 0.55),
        noise=dice.uniform(0.04, 0.1) if dice.chance(0.15) else dice.uniform(0.0, 0.05),
        bias=dice.uniform(0.0, 0.3),
        gamma=dice.uniform(0.85, 1.2),
        moves=dice.chance(0.5),
    )


def acquire(image: Tensor, grid: Grid, scan: Scan, dice: Dice) -> Tensor:
    """Return what the scanner would deliver, shape (slice, row, column).

    It is not negative, and zero outside the coverage.
    """
    if scan.moves:
        image = _moved(image, grid, dice)
    image = image.clamp_min(0.0) ** scan.gamma
    image = image * torch.exp(scan.bias * smooth_noise(grid, dice.uniform(60.0, 160.0), dice))
    image = blur(image, (scan.blur_voxels,) * 3)
    covered = None
    if scan.slice_axis >= 0:
        matrix, covered = slice_matrix(
            grid.shape[scan.slice_axis], grid.spacing_mm[scan.slice_axis], scan, dice
        )
        image = apply_along(image, matrix, scan.slice_axis)
    level = scan.noise * float(image[image > 0.2].median()) if bool((image > 0.2).any()) else 0.0
    real, imaginary = (level * dice.normal(*grid.shape) for _ in range(2))
    image = torch.sqrt((image + real) ** 2 + imaginary**2)
    if covered is not None:
        shape = [1, 1, 1]
        shape[scan.slice_axis] = -1
        image = image * covered.reshape(shape)
    return image


def slice_matrix(count: int, spacing_mm: float, scan: Scan, dice: Dice) -> tuple[Tensor, Tensor]:
    """Return the (count, count) matrix of cutting into slices, and which rows are covered.

    The matrix also interpolates back.
    """
    step = scan.step_mm / spacing_mm
    first = dice.uniform(0.0, step) + scan.covered[0] * count
    number = max(2, math.floor((scan.covered[1] * count - 1 - first) / step) + 1)
    centres = first + step * torch.arange(number)
    index = torch.arange(count, dtype=torch.float32)
    thickness = dice.uniform(0.75, 1.0) * step
    cut = torch.sigmoid((thickness / 2 - (index[None] - centres[:, None]).abs()) * 6.0)
    cut = cut / cut.sum(dim=1, keepdim=True).clamp_min(1e-6)
    slice_distance = ((index[:, None] - centres[None]) / step).abs()
    back = (slice_distance <= 0.5).float() if scan.nearest else (1.0 - slice_distance).clamp_min(0.0)
    total = back.sum(dim=1)
    back = back / total[:, None].clamp_min(1e-6)
    return back @ cut, (total > 0.45).float()


def _moved(image: Tensor, grid: Grid, dice: Dice) -> Tensor:
    """Shift up to 1.5 mm and turn up to 2 degrees: what registration leaves behind."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(grid.shape, grid.spacing_mm, strict=True)]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    shift = torch.tensor([dice.uniform(-1.5, 1.5) for _ in range(3)])
    moved = offsets @ draw_affine(dice, 2.0, 0.0, 0.0, 0.0).T + shift
    positions = moved / torch.tensor(grid.spacing_mm) + (torch.tensor(grid.shape) - 1) / 2
    return sample(image[None], positions)[0]
