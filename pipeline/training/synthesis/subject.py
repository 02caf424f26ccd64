"""One synthetic subject from one seed: the composition of anatomy, head, lesions, contrast, scan and mask.

`synthesise_lesion_case` makes training samples of the lesion network, `synthesise_head_case` those of the
brain extractor. Same seed, same grid, same maps: same arrays, bit for bit on one machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.training.synthesis.acquisition import acquire, draw_scan
from pipeline.training.synthesis.anatomy import Anatomy
from pipeline.training.synthesis.appearance import (
    draw_acute_lesion,
    draw_lesion_state,
    draw_look_alikes,
    paint,
)
from pipeline.training.synthesis.contrast import draw_contrast
from pipeline.training.synthesis.deformation import BRAIN_CENTRE_MM, draw_coordinates
from pipeline.training.synthesis.fields import Dice, Grid
from pipeline.training.synthesis.head import draw_head
from pipeline.training.synthesis.lesions import LesionShape, draw_lesions
from pipeline.training.synthesis.masks import draw_mask, true_mask
from pipeline.training.synthesis.tissue import Brain, draw_brain
from pipeline.training.synthesis.transplant import Donor, Transplant, draw_transplant
from pipeline.training.synthesis.visibility import find_shown

LESION_GRID = Grid((80, 96, 80), (2.0, 2.0, 2.0))
FINE_GRID = Grid((160, 192, 160), (1.0, 1.0, 1.0))
"""What the networks of the three planes see, slice by slice."""
WHOLE_GRID = Grid((112, 112, 88), (2.0, 2.0, 2.0))
"""Whole heads for validation through the shipped path."""
HEAD_GRID = Grid((80, 80, 64), (3.0, 3.0, 3.0))
INTENSITY_CEILING = 3.0
DONOR_SEED = 50_000_000
"""Donors of transplants are drawn from seeds from here on.

What a seed gives without transplants stays as it is.
"""


@dataclass(frozen=True, eq=False)
class Case:
    """One training sample.

    Attributes
    ----------
    image
        (channel, slice, row, column) float32, scaled as at inference.
    label
        (slice, row, column) bool.
    lesions
        The shapes that were drawn (also for a brain extractor's sample, where they are not the label).
    shown
        (channel, slice, row, column) bool: where the lesions show in each channel; None if not compared.
    """

    image: Tensor
    label: Tensor
    lesions: tuple[LesionShape, ...]
    shown: Tensor | None = None


def synthesise_lesion_case(
    anatomy: Anatomy,
    seed: int,
    maps: Sequence[Path] = (),
    grid: Grid = LESION_GRID,
    transplants: float = 0.0,
    *,
    compared: bool = False,
) -> Case:
    """Make one T1 + FLAIR pair, brain-extracted more or less well, and its lesion label.

    With probability `transplants` the lesions give way to one that is cut out of another subject. With
    `compared` each image is painted without the lesions too, and the case says where they show.
    """
    dice = Dice(seed)
    brain = draw_brain(anatomy, draw_coordinates(anatomy, grid, dice), grid, dice)
    shapes = draw_lesions(brain, grid, dice, maps)
    lesions = [draw_lesion_state(shape, grid, dice) for shape in shapes]
    transplant = (
        _draw_transplant(anatomy, brain, DONOR_SEED + seed, maps, grid, transplants)
        if shapes and transplants > 0
        else None
    )
    if transplant is not None:
        shapes, lesions = [transplant.shape], []
    layers, look_alikes = draw_head(brain, grid, dice), draw_look_alikes(brain, grid, dice)
    mask = draw_mask(brain, grid, dice)
    channels, shown = [], []
    for kind in ("t1", "flair"):
        contrast, twin = draw_contrast(kind, dice, wild=0.06), dice.twin()
        ideal = paint(brain, layers, lesions, contrast, grid, dice, look_alikes, transplant)
        if compared:
            bare = paint(brain, layers, (), contrast, grid, twin, look_alikes)
            shown.append(find_shown(ideal, bare, true_mask(brain)))
        scan = acquire(ideal, grid, draw_scan(kind, dice), dice)
        channels.append(scale_by_brain_median(scan, mask if not mask.all() else true_mask(brain), keep=mask))
    label = _union(shapes, grid)
    return Case(torch.stack(channels), label, tuple(shapes), torch.stack(shown) & label if shown else None)


def synthesise_acute_case(
    anatomy: Anatomy, seed: int, maps: Sequence[Path] = (), grid: Grid = FINE_GRID
) -> Case:
    """Make one T1 + FLAIR pair that looks as people with acute strokes do (`draw_acute_lesion`), at 1 mm.

    Seven of ten have a real outline.
    """
    dice = Dice(seed)
    brain = draw_brain(anatomy, draw_coordinates(anatomy, grid, dice), grid, dice)
    shapes = draw_lesions(brain, grid, dice, maps, empty=0.15, real=0.7)
    lesions = [draw_acute_lesion(shape, grid, dice) for shape in shapes]
    layers, look_alikes = draw_head(brain, grid, dice), draw_look_alikes(brain, grid, dice, elderly=True)
    mask = draw_mask(brain, grid, dice)
    channels = []
    for kind in ("t1", "flair"):
        contrast = draw_contrast(kind, dice, wild=0.04, clinical=True)
        ideal = paint(brain, layers, lesions, contrast, grid, dice, look_alikes)
        scan = acquire(ideal, grid, replace(draw_scan(kind, dice), noise=dice.log_uniform(0.004, 0.05)), dice)
        channels.append(scale_by_brain_median(scan, mask if not mask.all() else true_mask(brain), keep=mask))
    return Case(torch.stack(channels), _union(shapes, grid), tuple(shapes))


def _draw_transplant(
    anatomy: Anatomy, brain: Brain, seed: int, maps: Sequence[Path], grid: Grid, share: float
) -> Transplant | None:
    """Draw a donor and move one of its lesions into `brain`, with probability `share`.

    The result is also None when it does not fit.
    """
    dice = Dice(seed)
    if not dice.chance(share):
        return None
    donor_brain = draw_brain(anatomy, draw_coordinates(anatomy, grid, dice), grid, dice)
    shapes = draw_lesions(donor_brain, grid, dice, maps, empty=0.0)
    if not shapes:
        return None
    lesions = [draw_lesion_state(shape, grid, dice) for shape in shapes]
    images = {
        kind: paint(donor_brain, (), lesions, draw_contrast(kind, dice, wild=0.0), grid, dice)
        for kind in ("t1", "flair")
    }
    return draw_transplant(brain, Donor(donor_brain, tuple(shapes), images), grid, dice)


def synthesise_whole_head(
    anatomy: Anatomy, seed: int, maps: Sequence[Path] = (), grid: Grid = WHOLE_GRID
) -> Case:
    """Make one T1 + FLAIR pair of a whole head as a scanner gives it: nothing masked, nothing scaled.

    The label is its lesions.
    """
    dice = Dice(seed)
    centre = (BRAIN_CENTRE_MM[0] - 20.0, BRAIN_CENTRE_MM[1] - 8.0, 0.0)
    brain = draw_brain(anatomy, draw_coordinates(anatomy, grid, dice, centre_mm=centre), grid, dice)
    shapes = draw_lesions(brain, grid, dice, maps)
    lesions = [draw_lesion_state(shape, grid, dice) for shape in shapes]
    layers, look_alikes = draw_head(brain, grid, dice), draw_look_alikes(brain, grid, dice)
    channels = []
    for kind in ("t1", "flair"):
        ideal = paint(brain, layers, lesions, draw_contrast(kind, dice, wild=0.06), grid, dice, look_alikes)
        channels.append(acquire(ideal, grid, draw_scan(kind, dice), dice))
    return Case(torch.stack(channels), _union(shapes, grid), tuple(shapes))


def synthesise_head_case(
    anatomy: Anatomy, seed: int, maps: Sequence[Path] = (), grid: Grid = HEAD_GRID
) -> Case:
    """Make one whole head of any contrast, and its brain mask as it was before any lesion."""
    dice = Dice(seed)
    centre = (BRAIN_CENTRE_MM[0] - 30.0, BRAIN_CENTRE_MM[1] - 12.0, 0.0)
    positions = draw_coordinates(anatomy, grid, dice, centre_mm=centre, shift_mm=(35.0, 20.0, 12.0))
    brain = draw_brain(anatomy, positions, grid, dice)
    shapes = draw_lesions(brain, grid, dice, maps, empty=0.4, cortical=True)
    lesions = [draw_lesion_state(shape, grid, dice) for shape in shapes]
    layers, look_alikes = draw_head(brain, grid, dice), draw_look_alikes(brain, grid, dice)
    draw = dice.uniform(0.0, 1.0)
    kind = "t1" if draw < 0.42 else "flair" if draw < 0.84 else "t2"
    ideal = paint(brain, layers, lesions, draw_contrast(kind, dice, wild=0.2), grid, dice, look_alikes)
    scan = acquire(ideal, grid, draw_scan(kind, dice), dice)
    label = true_mask(brain)
    if dice.chance(0.1):
        # A head that was already stripped must be kept as it is.
        scan = scan * (brain.edge_mm < dice.uniform(0.0, 3.0))
    field = _draw_field_of_view(grid, dice)
    scan = scan * field
    visible = (scan > 0).any(dim=2).any(dim=1)[:, None, None] & (scan > 0).any(dim=0)[None]
    return Case(scale_by_percentiles(scan)[None], label & (field > 0) & visible, tuple(shapes))


def _draw_field_of_view(grid: Grid, dice: Dice) -> Tensor:
    """Return 1 inside a random box of the patch: the neck, sometimes the crown or the face, is cut off."""
    cuts = [(0.35, 0.06), (0.08, 0.08), (0.05, 0.05)]
    field = torch.ones(grid.shape)
    for axis, (low, high) in enumerate(cuts):
        n = grid.shape[axis]
        start = round(n * dice.uniform(0.0, low)) if dice.chance(0.6) else 0
        stop = n - (round(n * dice.uniform(0.0, high)) if dice.chance(0.5) else 0)
        index = torch.arange(n)
        shape = [-1 if i == axis else 1 for i in range(3)]
        field = field * ((index >= start) & (index < stop)).float().reshape(shape)
    return field


def scale_by_brain_median(image: Tensor, mask: Tensor, keep: Tensor | None = None) -> Tensor:
    """Divide by the median inside `mask`, clip to 0..3, zero outside `keep` (default: the mask).

    Raises
    ------
    ValueError
        The median is not positive: the mask lies on background.
    """
    median = float(image[mask].median()) if bool(mask.any()) else 0.0
    if median <= 0:
        raise ValueError("the median inside the brain mask is not positive")
    return (image / median).clamp(0.0, INTENSITY_CEILING) * (mask if keep is None else keep)


def scale_by_percentiles(image: Tensor) -> Tensor:
    """Clip at the 0.5 and 99.5 percentile of the non-zero voxels and scale these to 0..1; zeros stay zero."""
    values = image[image > 0].sort().values
    if not len(values):
        return torch.zeros_like(image)
    low, high = (float(values[round(q * (len(values) - 1))]) for q in (0.005, 0.995))
    scaled = ((image - low) / max(high - low, 1e-6)).clamp(0.0, 1.0)
    return scaled * (image > 0)


def _union(shapes: Sequence[LesionShape], grid: Grid) -> Tensor:
    label = torch.zeros(grid.shape, dtype=torch.bool)
    for shape in shapes:
        label |= shape.mask
    return label
