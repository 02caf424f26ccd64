"""Lesion transplants.

A lesion cut out of one synthetic subject, intensities and all, and blended into another by Poisson's
equation.

Sources: the lesion transplant of StrokeFormer (method only), and Perez, Gangnet, Blake, "Poisson Image
Editing", 2003: inside the region the result has the gradients of the patch, on the region's border the values
of the image around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg
from torch import Tensor

from pipeline.counts import counted
from pipeline.training.synthesis.deformation import draw_affine
from pipeline.training.synthesis.fields import Dice, Grid, sample, smooth_noise
from pipeline.training.synthesis.lesions import LesionShape, depth_of, find_nearest, find_tissue
from pipeline.training.synthesis.tissue import Brain

MARGIN_MM = 6.0
"""How far the region that is blended reaches beyond the lesion.

The lesion keeps its own contrast against the tissue around it.
"""
SMALLEST_SHARE = 0.3
"""Share of the lesion that must fall on tissue of the other brain."""
RELATIVE_ERROR = 1e-6

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Donor:
    """The subject that a lesion is cut from.

    Attributes
    ----------
    images
        Kind ("t1", "flair") to ideal image (slice, row, column), lesions painted in.
    """

    brain: Brain
    lesions: tuple[LesionShape, ...]
    images: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Transplant:
    """A lesion on its way into another brain, on that brain's grid.

    Attributes
    ----------
    shape
        The lesion as it is labelled.
    region
        (slice, row, column) bool: what is blended; the lesion and `MARGIN_MM` around it, inside both brains.
    held
        (slice, row, column) bool: tissue, whose values the blend must meet where it borders on the region.
        Fluid is a real edge and holds nothing.
    patches
        Kind to the donor's image, moved.
    """

    shape: LesionShape
    region: Tensor
    held: Tensor
    patches: dict[str, Tensor]


def draw_transplant(brain: Brain, donor: Donor, grid: Grid, dice: Dice) -> Transplant | None:
    """Move one lesion of `donor` to the same place of `brain`.

    The place may also be that of the other side, turned and deformed a little.

    None when too little of it falls on tissue there.
    """
    shape = donor.lesions[dice.integer(len(donor.lesions))]
    side = -1.0 if dice.chance(0.5) else 1.0
    middle = donor.brain.positions[shape.mask].mean(dim=0).tolist()
    jitter = [dice.uniform(-6.0, 6.0) for _ in range(3)]
    allowed = find_tissue(brain)
    if not bool(allowed.any()):
        return None
    target = find_nearest(
        brain, allowed, (middle[0] + jitter[0], middle[1] + jitter[1], side * middle[2] + jitter[2])
    )
    unknown_voxels = _places_in_donor(shape.mask, target, side, grid, dice)
    moved = sample(torch.stack((shape.mask.float(), donor.brain.inside.float())), unknown_voxels)
    lesion = moved[0] > 0.5
    if int((lesion & allowed).sum()) < max(2, SMALLEST_SHARE * float(shape.mask.sum())):
        return None
    near = ndimage.distance_transform_edt(~lesion.numpy(), sampling=grid.spacing_mm) <= MARGIN_MM
    region = torch.from_numpy(near) & (moved[1] > 0.99) & brain.inside & (brain.ventricle_mm > 0.0)
    patches = dict(
        zip(donor.images, sample(torch.stack(tuple(donor.images.values())), unknown_voxels), strict=True)
    )
    # The region shows what the donor had there, so the whole of the lesion counts, over the other brain's
    # sulci too.
    mask = lesion & region
    moved_shape = LesionShape(
        mask, depth_of(mask, grid), float(mask.sum()) * grid.voxel_ml, f"transplant of {shape.source}"
    )
    return Transplant(moved_shape, region, brain.inside & (brain.parenchyma > 0.5), patches)


def _places_in_donor(lesion: Tensor, target: Sequence[int], side: float, grid: Grid, dice: Dice) -> Tensor:
    """Return for each voxel where it lies in the donor's grid, shape (slice, row, column, 3)."""
    spacing = torch.tensor(grid.spacing_mm)
    axes = [torch.arange(n, dtype=torch.float32) for n in grid.shape]
    offset = (torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) - torch.tensor(target)) * spacing
    offset = (offset * torch.tensor((1.0, 1.0, side))) @ draw_affine(dice, 12.0, 0.15, 0.08, 0.03).T
    for wavelength, amplitude in ((24.0, 2.0), (10.0, 1.0)):
        offset += torch.stack([smooth_noise(grid, wavelength, dice) for _ in range(3)], dim=-1) * (
            amplitude * 0.55
        )
    return lesion.nonzero().float().mean(dim=0) + offset / spacing


def blend(
    image: Tensor, patch: Tensor, region: Tensor, held: Tensor, spacing_mm: tuple[float, float, float]
) -> Tensor:
    """Return `image` with `patch` blended into `region`, all of shape (slice, row, column).

    The difference from the patch is harmonic inside the region and equals image - patch on the voxels of
    `held` that touch it; where the region touches anything else, or the end of the grid, nothing flows.
    Outside the region the image is unchanged.
    """
    inside = np.pad(region.numpy(), 1)
    border = np.pad((held & ~region).numpy(), 1)
    right_side = np.pad((image - patch).double().numpy(), 1)
    unknown_voxels = np.flatnonzero(inside)
    number = np.full(inside.size, -1)
    number[unknown_voxels] = np.arange(len(unknown_voxels))
    diagonal, right = np.zeros(len(unknown_voxels)), np.zeros(len(unknown_voxels))
    rows, columns, weights = [], [], []
    for stride, size_mm in zip(
        (inside.shape[1] * inside.shape[2], inside.shape[2], 1), spacing_mm, strict=True
    ):
        weight = 1.0 / size_mm**2
        for neighbour in (unknown_voxels - stride, unknown_voxels + stride):
            joined, fixed = inside.flat[neighbour], border.flat[neighbour]
            diagonal += weight * (joined | fixed)
            right += weight * fixed * right_side.flat[neighbour]
            rows.append(np.flatnonzero(joined))
            columns.append(number[neighbour[joined]])
            weights.append(np.full(int(joined.sum()), -weight))
    # A voxel that touches nothing keeps the patch's own value.
    diagonal[diagonal == 0] = 1.0
    laplacian = sparse.csr_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))),
        shape=(len(unknown_voxels),) * 2,
    )
    difference = _solve(laplacian + sparse.diags(diagonal), right, diagonal)
    result = image.clone()
    result[region] = (patch[region].double() + torch.from_numpy(difference)).to(image.dtype)
    return result


def _solve(matrix: sparse.csr_matrix, right: Float, diagonal: Float) -> Float:
    """Solve by conjugate gradients, preconditioned by the diagonal.

    Raises
    ------
    ArithmeticError
        It did not converge.
    """
    solution, failed = cg(matrix, right, rtol=RELATIVE_ERROR, maxiter=5000, M=sparse.diags(1.0 / diagonal))
    if failed:
        raise ArithmeticError(f"the blend of {counted(len(right), 'voxel')} did not converge ({failed})")
    solved: Float = solution
    return solved
