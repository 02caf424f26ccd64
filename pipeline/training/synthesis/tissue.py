"""Tissue shares of one subject on its own grid, with sulci and ventricles of its own age."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.synthesis.anatomy import CSF, WHITE, Anatomy
from pipeline.training.synthesis.deformation import distance_index, tissue_index
from pipeline.training.synthesis.fields import Dice, Grid, sample, smooth_noise


@dataclass(frozen=True, eq=False)
class Brain:
    """What lies where in one subject; every map has shape (slice, row, column).

    Attributes
    ----------
    positions
        Template coordinates in mm, shape (slice, row, column, 3).
    shares
        (5, slice, row, column), sums to one inside the brain (order of `anatomy`).
    edge_mm, hull_mm, ventricle_mm
        Signed distances in template mm, positive outside.
    """

    positions: Tensor
    shares: Tensor
    edge_mm: Tensor
    hull_mm: Tensor
    ventricle_mm: Tensor

    @property
    def inside(self) -> Tensor:
        """Voxels of the brain, sulci included."""
        return self.edge_mm < 0

    @property
    def parenchyma(self) -> Tensor:
        """Share of grey and white matter."""
        return self.shares[:3].sum(dim=0)


def draw_brain(anatomy: Anatomy, positions: Tensor, grid: Grid, dice: Dice) -> Brain:
    """Sample the tissue maps at `positions` and give them a random degree of ageing."""
    shares = sample(anatomy.tissue_for(min(grid.spacing_mm)), tissue_index(anatomy, positions))
    index = distance_index(anatomy, positions)
    edge, hull, ventricle = sample(anatomy.distances[:3], index, border=True)
    return Brain(positions, _age(shares, grid, dice), edge, hull, ventricle)


def _age(shares: Tensor, grid: Grid, dice: Dice) -> Tensor:
    """Widen or narrow sulci and thin the white matter by shifting the logits of the shares."""
    logits = torch.log(shares.clamp_min(1e-3))
    sulci = dice.uniform(-0.5, 2.5)
    white = dice.uniform(-0.6, 0.4)
    logits[CSF] += sulci + 0.5 * smooth_noise(grid, 25.0, dice) + 0.4 * smooth_noise(grid, 9.0, dice)
    logits[WHITE] += white + 0.3 * smooth_noise(grid, 20.0, dice)
    return torch.softmax(logits * dice.uniform(0.8, 1.8), dim=0)
