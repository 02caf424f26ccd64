"""Everything around the brain: meninges, skull, scalp, neck, face, eyes and air, painted from the inside out.

Shapes are analytic in template coordinates (mm up, to posterior, to the left), so they follow the subject's
deformation. They are plausible, not anatomical: a network needs to meet dark bone, bright fat, air and CSF
next to the brain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.synthesis.fields import Dice, Grid, smooth_noise, smoothstep
from pipeline.training.synthesis.tissue import Brain


@dataclass(frozen=True, eq=False)
class Layer:
    """One soft mask and the tissue that it is painted with; later layers cover earlier ones."""

    tissue: str
    cover: Tensor


def draw_head(brain: Brain, grid: Grid, dice: Dice) -> list[Layer]:
    """Draw the head around one brain, as layers from the outside in; the brain itself is not among them."""
    up, back, left = brain.positions.unbind(-1)
    ripple = smooth_noise(grid, 30.0, dice)
    csf_mm = _csf_thickness(brain, up, back, dice, ripple)
    depth = brain.hull_mm - csf_mm
    skull_mm = dice.uniform(4.0, 10.0) + 1.2 * ripple
    scalp_mm = skull_mm + dice.uniform(2.5, 11.0) + 1.5 * smooth_noise(grid, 45.0, dice)
    body = torch.minimum(
        depth - scalp_mm, _face_and_neck(up, back, left, dice) + 3 * smooth_noise(grid, 40.0, dice)
    )
    layers = _soft_tissue(body, grid, dice)
    layers += _skull(depth, skull_mm, grid, dice)
    layers += _face_cavities(up, back, left, depth, grid, dice)
    layers += _cord(up, back, left, dice)
    layers += [Layer("csf", smoothstep(depth, 0.0, 2.0))]
    return layers + _sinuses(brain, up, back, left, depth, csf_mm, dice)


def _csf_thickness(brain: Brain, up: Tensor, back: Tensor, dice: Dice, ripple: Tensor) -> Tensor:
    """Thickness of the fluid around the brain: thin over the vault, thick in the basal cisterns."""
    vault = dice.uniform(0.3, 5.0) if dice.chance(0.8) else dice.uniform(4.0, 9.0)
    cistern = (
        dice.uniform(0.0, 12.0)
        * torch.sigmoid((-22.0 - up) / 6.0)
        * torch.exp(-(((back - 22.0) / 26.0) ** 2))
    )
    return (vault * (1.0 + 0.35 * ripple)).clamp_min(0.2) + cistern


def _ellipsoid(
    up: Tensor,
    back: Tensor,
    left: Tensor,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> Tensor:
    """Return an approximate signed distance in mm to an ellipsoid, positive outside."""
    scaled = [(c - m) / r for c, m, r in zip((up, back, left), centre, radii, strict=True)]
    return (torch.sqrt(sum(s * s for s in scaled)) - 1.0) * min(radii)  # type: ignore[arg-type]


def _face_and_neck(up: Tensor, back: Tensor, left: Tensor, dice: Dice) -> Tensor:
    size = dice.uniform(0.88, 1.12)
    face = _ellipsoid(up, back, left, (-48, -46, 0), (74 * size, 50 * size, 66 * size))
    nose = _ellipsoid(up, back, left, (-48, -96, 0), (24, 24 * size, 15))
    lean = -0.15 * (up + 60.0)
    neck = torch.sqrt(((back - 30.0 - lean) / 62.0) ** 2 + (left / 58.0) ** 2) - size * dice.uniform(
        0.8, 1.05
    )
    neck = torch.maximum(neck * 58.0, up + dice.uniform(35.0, 55.0))
    return torch.minimum(torch.minimum(face, nose), neck)


def _soft_tissue(body: Tensor, grid: Grid, dice: Dice) -> list[Layer]:
    """Fat under the skin and muscle with streaks of fat below it."""
    fat_mm = dice.uniform(1.0, 9.0)
    streaks = smooth_noise(grid, 14.0, dice)
    return [
        Layer("fat", smoothstep(body, 0.0, 2.0)),
        Layer("muscle", smoothstep(body, -fat_mm, 3.0)),
        Layer("fat", smoothstep(body, -fat_mm, 3.0) * smoothstep(-streaks, -dice.uniform(0.2, 1.2), 0.5)),
    ]


def _skull(depth: Tensor, skull_mm: Tensor, grid: Grid, dice: Dice) -> list[Layer]:
    """Bone with a layer of marrow that is missing in places."""
    marrow = smoothstep((depth - 0.5 * skull_mm).abs(), 0.22 * skull_mm, 1.5)
    present = smoothstep(-smooth_noise(grid, 25.0, dice), dice.uniform(-0.8, 0.8), 0.6)
    return [Layer("bone", smoothstep(depth, skull_mm, 2.0)), Layer("marrow", marrow * present)]


def _face_cavities(
    up: Tensor, back: Tensor, left: Tensor, depth: Tensor, grid: Grid, dice: Dice
) -> list[Layer]:
    """Eyes in fat, air cavities, mucosa, and the dense bone around the ears."""
    side = left.abs()
    outside = smoothstep(-depth, 0.0, 2.0)

    def ball(
        tissue: str, centre_mm: tuple[float, float, float], radii: tuple[float, float, float], jitter: float
    ) -> Layer:
        centre = tuple(c + dice.uniform(-jitter, jitter) for c in centre_mm)
        grow = dice.uniform(0.75, 1.3)
        sizes_mm = tuple(grow * r for r in radii)
        distance = _ellipsoid(up, back, side, centre, sizes_mm)  # type: ignore[arg-type]
        return Layer(tissue, smoothstep(distance, 0.0, 1.5) * outside)

    layers = [
        ball("fat", (-36, -52, 30), (19, 26, 18), 3),
        ball("eye", (-36, -66, 32), (12, 12, 12), 2),
        ball("mucosa", (-50, -50, 0), (26, 36, 12), 4),
        ball("air", (-50, -52, 4), (18, 30, 4), 4),
    ]
    if dice.chance(0.8):
        layers += [ball("air", (-62, -48, 26), (15, 15, 13), 4), ball("air", (-26, -14, 0), (10, 13, 14), 4)]
    if dice.chance(0.6):
        layers.append(ball("air", (-2, -78, 8), (12, 7, 14), 4))
    layers.append(ball("bone", (-36, 24, 42), (10, 16, 26), 4))
    cells = smoothstep(-smooth_noise(grid, 7.0, dice), dice.uniform(-0.4, 0.6), 0.4)
    mastoid = ball("air", (-44, 36, 54), (16, 14, 10), 4)
    layers.append(Layer("air", mastoid.cover * cells))
    layers.append(ball("air", (-80, -14, 0), (30, 9, 10), 5))
    return layers


def _cord(up: Tensor, back: Tensor, left: Tensor, dice: Dice) -> list[Layer]:
    """Spinal canal and cord below the average brain's lower end."""
    lean = 42.0 - dice.uniform(0.0, 0.3) * (up + 70.0)
    radius = torch.sqrt((back - lean) ** 2 + left**2)
    below = torch.sigmoid((-66.0 - up) / 2.0)
    return [
        Layer("bone", smoothstep(radius, 17.0, 3.0) * below),
        Layer("csf", smoothstep(radius, 10.0, 2.0) * below),
        Layer("white", smoothstep(radius, dice.uniform(5.0, 7.5), 2.0) * below),
    ]


def _sinuses(
    brain: Brain, up: Tensor, back: Tensor, left: Tensor, depth: Tensor, csf_mm: Tensor, dice: Dice
) -> list[Layer]:
    """Venous sinuses, dura and the tentorium's edge: thin structures that touch the brain."""
    shell = smoothstep((depth + 1.0).abs(), dice.uniform(0.4, 1.6), 1.5)
    sagittal = torch.sqrt((left / 5.0) ** 2 + ((depth + 1.5) / 5.0) ** 2) + 4.0 * torch.sigmoid((-up) / 3.0)
    transverse = torch.sqrt(((up + 22.0) / 6.0) ** 2 + ((depth + 2.0) / 6.0) ** 2)
    transverse = transverse + 4.0 * torch.sigmoid((30.0 - back) / 4.0)
    carotid = torch.sqrt(((left.abs() - 14.0) / 5.0) ** 2 + ((back - 2.0) / 6.0) ** 2)
    carotid = carotid + 4.0 * torch.sigmoid((up + 22.0) / 3.0)
    outside = smoothstep(-brain.hull_mm, 0.5, 2.0)
    vessels = torch.minimum(torch.minimum(sagittal, transverse), carotid)
    return [
        Layer("muscle" if dice.chance(0.5) else "bone", shell * outside),
        Layer("vessel", smoothstep(vessels, 1.0, 0.6) * outside),
    ]
