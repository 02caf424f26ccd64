"""How tissue, lesions and look-alikes appear in one image: a mean intensity for each voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.synthesis.contrast import Contrast
from pipeline.training.synthesis.fields import Dice, Grid, blur_mm, smooth_noise, smoothstep
from pipeline.training.synthesis.head import Layer
from pipeline.training.synthesis.lesions import LesionShape
from pipeline.training.synthesis.tissue import Brain
from pipeline.training.synthesis.transplant import Transplant, blend

BRAIN_TISSUES = ("cortex", "deep", "white", "csf", "csf")
"""Contrast name of each channel of `Brain.shares`."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """A shape and the state that decides how it looks, the same for every image of the subject.

    Attributes
    ----------
    cavity_depth
        Depth (0 core, 1 edge) up to which the tissue is replaced by fluid; 0 for none.
    strands
        (slice, row, column), 0..1: 0 where a strand of tissue runs through the cavity.
    brightness
        FLAIR and T2 intensity relative to grey matter.
    t1_level
        T1 intensity relative to white matter of what is not cavity.
    mottle
        Relative deviation of the FLAIR intensity inside.
    """

    shape: LesionShape
    cavity_depth: float
    flair_cavity_share: float
    strands: Tensor
    brightness: float
    t1_level: float
    edge_mm: float
    halo: float
    mottle: float = 0.06


def draw_acute_lesion(shape: LesionShape, grid: Grid, dice: Dice) -> Lesion:
    """Draw the state of one lesion as 1,037 real acute strokes look on FLAIR.

    Half acute, a third sub-acute, the rest chronic.

    A lesion is the brighter the larger it is (ratio to the mirrored place 1.23, 1.33, 1.41, 1.47 for areas of
    20 to 100, 100 to 500, 500 to 1,500 and more px), and a tenth hardly shows.
    """
    if dice.chance(0.18):
        return draw_lesion_state(shape, grid, dice, cavity=dice.chance(0.6))
    size = min(1.0, max(0.0, (math.log10(max(shape.volume_ml, 1e-3)) + 0.5) / 2.3))
    faint = dice.chance(0.1)
    brightness = dice.uniform(0.98, 1.12) if faint else 1.19 + 0.24 * size + 0.13 * float(dice.normal(1)[0])
    return Lesion(
        shape,
        cavity_depth=0.0,
        flair_cavity_share=1.0,
        strands=torch.ones(()),
        brightness=max(0.95, brightness),
        t1_level=dice.uniform(0.6, 1.0) if dice.chance(0.6) else dice.uniform(0.4, 0.8),
        edge_mm=dice.uniform(0.8, 2.6),
        halo=dice.uniform(0.1, 0.5) if dice.chance(0.2) else 0.0,
        mottle=dice.uniform(0.04, 0.09 + 0.13 * size),
    )


def draw_lesion_state(shape: LesionShape, grid: Grid, dice: Dice, *, cavity: bool | None = None) -> Lesion:
    """Draw chronic (cavity or gliosis) or sub-acute (no cavity) for one shape.

    `cavity` forces one or the other.
    """
    chronic = dice.chance(0.6) if cavity is None else cavity
    cavity = chronic and (cavity is True or dice.chance(0.75))
    strands = smoothstep(smooth_noise(grid, dice.uniform(6.0, 14.0), dice), dice.uniform(0.6, 2.5), 0.8)
    if cavity:
        t1_level = dice.uniform(0.35, 0.7)
    else:
        # Gliosis without cavity, and lacunes filled with scar, are only slightly darker than white matter.
        t1_level = dice.uniform(0.5, 0.9) if chronic else dice.uniform(0.35, 0.85)
    return Lesion(
        shape,
        cavity_depth=dice.uniform(0.8, 1.06) if cavity else 0.0,
        flair_cavity_share=dice.uniform(0.6, 1.0),
        strands=strands,
        brightness=dice.uniform(1.12, 1.85),
        t1_level=t1_level,
        edge_mm=dice.uniform(0.3, 1.3),
        halo=dice.uniform(0.1, 0.5) if dice.chance(0.25) else 0.0,
    )


def paint(
    brain: Brain,
    layers: Sequence[Layer],
    lesions: Sequence[Lesion],
    contrast: Contrast,
    grid: Grid,
    dice: Dice,
    look_alikes: Tensor | None = None,
    transplant: Transplant | None = None,
) -> Tensor:
    """Return the ideal image, shape (slice, row, column), before any scanner touched it."""
    means = contrast.means
    image = torch.full(grid.shape, means["air"])
    for layer in layers:
        image = image + layer.cover * (means[layer.tissue] - image)
    tissue = torch.tensor([means[name] for name in BRAIN_TISSUES])
    inner = torch.tensordot(tissue, brain.shares, dims=1)
    if contrast.kind != "t1" and look_alikes is not None:
        inner = inner + look_alikes * (means["cortex"] * dice.uniform(1.05, 1.5) - inner)
    elif look_alikes is not None:
        inner = inner * (1.0 - dice.uniform(0.0, 0.22) * look_alikes)
    inner = _cortical_gain(inner, brain, grid, dice)
    inner = inner * (1.0 + dice.uniform(0.0, 0.05) * smooth_noise(grid, 7.0, dice))
    for lesion in lesions:
        inner = paint_lesion(inner, lesion, contrast, grid, dice)
    if transplant is not None:
        inner = blend(
            inner, transplant.patches[contrast.kind], transplant.region, transplant.held, grid.spacing_mm
        )
    return image + smoothstep(brain.edge_mm, 0.0, 2.0) * (inner - image)


def _cortical_gain(inner: Tensor, brain: Brain, grid: Grid, dice: Dice) -> Tensor:
    """Brighten the cortex and the vertex unevenly, as surface coils and short inversion times do."""
    if not dice.chance(0.4):
        return inner
    gain = dice.uniform(0.0, 0.2) * (0.6 + 0.5 * smooth_noise(grid, 50.0, dice))
    return inner * (1.0 + gain * brain.shares[0])


def paint_lesion(inner: Tensor, lesion: Lesion, contrast: Contrast, grid: Grid, dice: Dice) -> Tensor:
    """Return the image with one lesion in it; `inner` and `contrast` are in the same units."""
    means, depth = contrast.means, lesion.shape.depth
    cover = blur_mm(lesion.shape.mask.float(), lesion.edge_mm, grid)
    share = lesion.flair_cavity_share if contrast.kind == "flair" else 1.0
    cavity = (
        smoothstep(depth, lesion.cavity_depth * share, 0.15) * lesion.strands if lesion.cavity_depth else None
    )
    if contrast.kind == "t1":
        # Part of the tissue's own pattern shows through, and the rest is not flat either.
        level = lesion.t1_level * means["white"] * (1.0 + 0.07 * smooth_noise(grid, 8.0, dice))
        level = level + dice.uniform(0.0, 0.4) * (inner - level)
        wall = torch.minimum(inner, level)
    else:
        bright = means["cortex"] * lesion.brightness * (1.0 + lesion.mottle * smooth_noise(grid, 8.0, dice))
        wall = torch.maximum(bright, inner) if contrast.kind == "flair" else bright
        if lesion.halo:
            inner = inner + lesion.halo * smoothstep(depth, 1.25, 0.3) * (wall - inner)
    if cavity is not None:
        wall = wall + cavity * (means["csf"] * dice.uniform(0.85, 1.3) - wall)
    return inner + cover * (wall - inner)


def draw_look_alikes(brain: Brain, grid: Grid, dice: Dice, *, elderly: bool = False) -> Tensor | None:
    """Draw white-matter hyperintensities of ageing, the same on both sides, 0..1; None for a young subject.

    They are confounders: never part of the label. Strokes are one-sided, these are not. `elderly` draws them
    as often as people with acute strokes have them.
    """
    cover = torch.zeros(grid.shape)
    drawn = False
    if dice.chance(0.75 if elderly else 0.45):
        line_mm = dice.uniform(0.5, 2.0)
        cover = torch.maximum(cover, smoothstep(brain.ventricle_mm, line_mm, 1.5) * dice.uniform(0.4, 1.0))
        drawn = True
    if dice.chance(0.6 if elderly else 0.35):
        rim_mm = dice.uniform(1.0, 6.5) + dice.uniform(0.3, 2.0) * smooth_noise(grid, 18.0, dice)
        cover = torch.maximum(cover, smoothstep(brain.ventricle_mm, rim_mm, 2.0))
        drawn = True
    if dice.chance(0.5 if elderly else 0.3):
        spots = smoothstep(-smooth_noise(grid, dice.uniform(6.0, 12.0), dice), -dice.uniform(1.7, 2.6), 0.5)
        cover = torch.maximum(cover, spots * smoothstep(brain.ventricle_mm, 22.0, 8.0))
        drawn = True
    if not drawn:
        return None
    tissue = brain.shares[2] + (brain.ventricle_mm < 4.0) * brain.shares[:3].sum(0) * 0.5
    return cover * tissue.clamp(0.0, 1.0)
