"""Brain masks as they come out of a brain extractor: never exact, sometimes bad, sometimes absent."""

from __future__ import annotations

from torch import Tensor

from pipeline.training.synthesis.fields import Dice, Grid, smooth_noise
from pipeline.training.synthesis.tissue import Brain

LABEL_EDGE_MM = 1.0
"""The extractor's label reaches this far beyond the average brain's outline, to hold the cortex's fluid."""


def true_mask(brain: Brain) -> Tensor:
    """Return the brain as the extractor should find it: the outline before any lesion, cavities included."""
    return brain.edge_mm < LABEL_EDGE_MM


def draw_mask(brain: Brain, grid: Grid, dice: Dice) -> Tensor:
    """Draw an imperfect mask; it is applied to the image last.

    Half are close to the truth, four in ten are loose or leak, one in ten is not applied at all (all True).
    """
    kind = dice.uniform(0.0, 1.0)
    ripple = smooth_noise(grid, 20.0, dice) + 0.5 * smooth_noise(grid, 9.0, dice)
    if kind > 0.92:
        return brain.edge_mm < 1e6
    if kind < 0.55:
        offset, roughness = dice.uniform(-1.5, 2.5), dice.uniform(0.2, 1.2)
    else:
        offset, roughness = dice.uniform(1.0, 8.0), dice.uniform(0.5, 2.5)
    distance = brain.edge_mm if dice.chance(0.5) else (brain.edge_mm + brain.hull_mm) / 2
    edge = LABEL_EDGE_MM + offset + roughness * ripple
    if dice.chance(0.25):
        leak = smooth_noise(grid, 35.0, dice) > dice.uniform(0.8, 1.8)
        edge = edge + leak * dice.uniform(3.0, 12.0)
    return distance < edge
