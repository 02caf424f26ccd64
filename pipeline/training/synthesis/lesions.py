"""Where lesions lie and what shape they have.

Procedural ones, and real outlines carried along by the deformation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.training.synthesis.deformation import draw_affine
from pipeline.training.synthesis.fields import Dice, Grid, blur, blur_mm, sample, smooth_noise
from pipeline.training.synthesis.lesion_maps import read_map
from pipeline.training.synthesis.tissue import Brain

SMALLEST_PIECE = 0.05
"""Share of the lesion below which a separate piece is dropped."""


SMALL_MAP_ML = 1.0
"""Real maps below this are mostly drawn anew: at 2 mm they teach little, and they are a sixth of the maps."""


@dataclass(frozen=True, eq=False)
class LesionShape:
    """One lesion.

    Attributes
    ----------
    mask
        (slice, row, column) bool.
    depth
        (slice, row, column), 0 at the core, 1 at the edge, above 1 outside.
    volume_ml
        Volume of `mask`.
    source
        "procedural", or the name of the real map.
    """

    mask: Tensor
    depth: Tensor
    volume_ml: float
    source: str


def draw_lesions(
    brain: Brain,
    grid: Grid,
    dice: Dice,
    maps: Sequence[Path] = (),
    *,
    empty: float = 0.12,
    cortical: bool = False,
    real: float = 0.5,
) -> list[LesionShape]:
    """Draw the lesions of one subject: none with probability `empty`, else one to five.

    A share `real` from `maps` when given.
    """
    if dice.chance(empty):
        return []
    count = 1
    while count < 5 and dice.chance(0.4):
        count += 1
    use_maps = bool(maps) and dice.chance(real)
    if use_maps:
        # One map is one patient's whole lesion load, so a second is rare.
        shapes = [draw_real(brain, grid, dice, maps) for _ in range(2 if dice.chance(0.1) else 1)]
    else:
        shapes = [
            draw_procedural(brain, grid, dice, draw_volume(dice), cortical=cortical) for _ in range(count)
        ]
    return [shape for shape in shapes if shape is not None]


def draw_volume(dice: Dice) -> float:
    """Return a volume in mL."""
    return dice.log_uniform(0.1, 250.0) if dice.chance(0.3) else dice.log_uniform(1.0, 150.0)


def draw_procedural(
    brain: Brain,
    grid: Grid,
    dice: Dice,
    volume_ml: float,
    *,
    cortical: bool = False,
    at_mm: tuple[float, float, float] | None = None,
) -> LesionShape | None:
    """Grow one lesion of `volume_ml` from a random seed; None when the brain is too small for it.

    With `at_mm` (template coordinates) it grows from the tissue voxel nearest to that place.
    """
    wanted_voxels = max(2, round(volume_ml / grid.voxel_ml))
    allowed = find_tissue(brain)
    if int(allowed.sum()) < 2 * wanted_voxels:
        return None
    seed = (
        _draw_seed(brain, allowed, volume_ml, dice, cortical)
        if at_mm is None
        else find_nearest(brain, allowed, at_mm)
    )
    field = _growth_field(brain, grid, seed, volume_ml, dice)
    field[~allowed] = float("inf")
    mask = _take_smallest(field, wanted_voxels)
    mask = _drop_islands(mask, seed) & allowed
    mask = _refill(mask, field, wanted_voxels)
    threshold = float(field[mask].max())
    return LesionShape(mask, field / max(threshold, 1e-6), float(mask.sum()) * grid.voxel_ml, "procedural")


def find_tissue(brain: Brain) -> Tensor:
    """Return where a lesion may lie: brain tissue, not fluid."""
    return brain.inside & (brain.parenchyma > 0.35) & (brain.ventricle_mm > 0.0)


def find_nearest(brain: Brain, allowed: Tensor, at_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the voxel of `allowed` that is nearest to a place in template coordinates."""
    distance = torch.linalg.vector_norm(brain.positions - torch.tensor(at_mm), dim=-1)
    flat = int(torch.where(allowed, distance, torch.inf).argmin())
    return tuple(int(i) for i in np.unravel_index(flat, allowed.shape))  # type: ignore[return-value]


def _draw_seed(
    brain: Brain, allowed: Tensor, volume_ml: float, dice: Dice, cortical: bool
) -> tuple[int, int, int]:
    """Pick the voxel that the lesion grows from; large ones are supratentorial and lateral."""
    up, left = brain.positions[..., 0], brain.positions[..., 2]
    seed_voxels = allowed
    if volume_ml > 15:
        seed_voxels = seed_voxels & (up > -12) & (left.abs() > 18)
    elif dice.chance(0.35):
        # Deep white matter and striatocapsular region: small-vessel and lenticulostriate infarcts.
        seed_voxels = seed_voxels & (brain.ventricle_mm < 18) & (up > -14)
    if cortical:
        seed_voxels = seed_voxels & (brain.edge_mm > -12) & (up > -10)
    if volume_ml > 4 and dice.chance(0.9):
        # A lesion lies in one hemisphere.
        seed_voxels = seed_voxels & (left > 6 if dice.chance(0.5) else left < -6)
    choices = torch.nonzero(seed_voxels if bool(seed_voxels.any()) else allowed)
    return tuple(int(i) for i in choices[dice.integer(len(choices))])  # type: ignore[return-value]


def _growth_field(
    brain: Brain, grid: Grid, seed: tuple[int, int, int], volume_ml: float, dice: Dice
) -> Tensor:
    """Return a distance-like field: the lesion is where it is smallest."""
    radius_mm = 10.0 * (volume_ml * 0.239) ** (1 / 3)
    centre = brain.positions[seed]
    offset = (brain.positions - centre) @ draw_affine(dice, 90.0, 0.0, 0.45, 0.15).T
    field: Tensor = torch.linalg.vector_norm(offset, dim=-1)
    ragged = dice.uniform(0.15, 0.6)
    field = field * torch.exp(
        ragged * smooth_noise(grid, max(1.4 * radius_mm, 5.0), dice)
        + 0.6 * ragged * smooth_noise(grid, max(0.6 * radius_mm, 4.0), dice)
    )
    if volume_ml > 2 and dice.chance(0.7):
        inside = territory(brain.positions) == int(territory(centre))
        field = torch.where(inside, field, field * dice.uniform(1.0, 4.0))
    if dice.chance(0.35):
        cortex = brain.shares[0] > brain.shares[2]
        field = torch.where(cortex == dice.chance(0.5), field, field * dice.uniform(1.0, 2.5))
    if abs(float(centre[2])) > 4 and dice.chance(0.95):
        field = torch.where(torch.sign(brain.positions[..., 2]) == torch.sign(centre[2]), field, field * 20.0)
    return field


def territory(positions: Tensor) -> Tensor:
    """Return the arterial territory at template coordinates.

    As a signed code (sign: side; 1 deep .. 5 infratentorial).

    Boxes and planes after the usual atlases' drawings; good enough to give lesions a border that follows a
    territory.
    """
    up, back, left = positions.unbind(-1)
    side = left.abs()
    code = torch.full_like(up, 2.0)  # middle cerebral artery
    code = torch.where(
        (side < 14 + 0.1 * (-back).clamp_min(0)) & (back < 45), 3.0, code
    )  # anterior cerebral artery
    code = torch.where((back > 52) | ((up < -4) & (back > 22)), 4.0, code)  # posterior cerebral artery
    deep = (up > -8) & (up < 24) & (side < 34) & (side > 4) & (back > -20) & (back < 30)
    code = torch.where(deep, 1.0, code)
    code = torch.where((up < -18) & (back > 10), 5.0, code)
    signed: Tensor = code * torch.where(left >= 0, 1.0, -1.0)
    return signed


def _take_smallest(field: Tensor, count: int) -> Tensor:
    """Return the `count` voxels where `field` is smallest."""
    threshold = torch.kthvalue(field.flatten(), min(count, field.numel())).values
    return (field <= threshold) & torch.isfinite(field)


def _drop_islands(mask: Tensor, seed: tuple[int, int, int] | None) -> Tensor:
    """Smooth by majority and drop small pieces that are not joined to the seed."""
    smooth = blur(mask.float(), (0.7, 0.7, 0.7)) > 0.5
    if int(smooth.sum()) < 4:
        smooth = mask
    labels, count = ndimage.label(smooth.numpy())
    if count <= 1:
        return smooth
    sizes = np.bincount(labels.ravel())[1:]
    keep = set((1 + np.flatnonzero(sizes >= SMALLEST_PIECE * sizes.sum())).tolist())
    if seed is not None and labels[seed]:
        keep.add(int(labels[seed]))
    return torch.from_numpy(np.isin(labels, sorted(keep)))


def _refill(mask: Tensor, field: Tensor, wanted_voxels: int) -> Tensor:
    """Bring a mask back to `wanted` voxels: grow along its own edge, or give up its outermost voxels."""
    missing = wanted_voxels - int(mask.sum())
    if missing < 0:
        inner = torch.where(mask, field, torch.inf)
        return _take_smallest(inner, wanted_voxels)
    for _ in range(8):
        if missing <= 0:
            break
        ring = torch.from_numpy(ndimage.binary_dilation(mask.numpy())) & ~mask & torch.isfinite(field)
        available = int(ring.sum())
        if not available:
            break
        mask = mask | _take_smallest(torch.where(ring, field, torch.inf), min(missing, available))
        missing = wanted_voxels - int(mask.sum())
    return mask


def draw_real(brain: Brain, grid: Grid, dice: Dice, maps: Sequence[Path]) -> LesionShape | None:
    """Carry one real outline along with the subject's own deformation.

    The result is None when nothing of it falls on tissue.
    """
    outline = read_map(maps[dice.integer(len(maps))])
    if outline.volume_ml < SMALL_MAP_ML and dice.chance(0.6):
        outline = read_map(maps[dice.integer(len(maps))])
    positions = brain.positions.clone()
    if dice.chance(0.5):
        positions[..., 2] = -positions[..., 2]
    extent = torch.tensor(outline.mask.shape[1:], dtype=torch.float32)
    middle = torch.tensor(outline.origin_mm) + extent / 2
    shift = torch.tensor([dice.uniform(-3, 3) for _ in range(3)])
    positions = (positions - middle) @ draw_affine(dice, 10.0, 0.12, 0.08, 0.03).T + middle + shift
    for wavelength, amplitude in ((24.0, 2.0), (10.0, 1.0)):
        positions += torch.stack([smooth_noise(grid, wavelength, dice) for _ in range(3)], dim=-1) * (
            amplitude * 0.55
        )
    soft = sample(outline.mask, positions - torch.tensor(outline.origin_mm))[0]
    mask = (soft > 0.5) & brain.inside & (brain.ventricle_mm > -1.0) & (brain.parenchyma > 0.2)
    mask = _drop_islands(mask, None)
    voxels = int(mask.sum())
    if voxels < 2:
        return None
    return LesionShape(mask, depth_of(mask, grid), voxels * grid.voxel_ml, outline.name)


def depth_of(mask: Tensor, grid: Grid) -> Tensor:
    """Return 0 at the core and 1 at the edge of any mask, from a blur of a third of its radius."""
    radius_mm = 10.0 * (float(mask.sum()) * grid.voxel_ml * 0.239) ** (1 / 3)
    soft = blur_mm(mask.float(), 0.35 * radius_mm, grid)
    edge = float(soft[mask].quantile(0.1)) if int(mask.sum()) < 16_000_000 else 0.5
    top = float(soft.max())
    return ((top - soft) / max(top - edge, 1e-6)).clamp_min(0.0)
