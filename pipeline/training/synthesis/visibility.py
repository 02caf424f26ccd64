"""What an image shows of a lesion: the voxels that it changes, against the same head painted without it."""

from __future__ import annotations

from torch import Tensor

SHOWN_CHANGE = 0.1
"""A voxel shows a lesion when it changes by this share of the brain's median."""


def find_shown(painted: Tensor, bare: Tensor, brain: Tensor) -> Tensor:
    """Return where a lesion shows, bool (slice, row, column).

    Parameters
    ----------
    painted, bare
        The ideal image with the lesions and without them, drawn alike, before any scanner touched it.
    brain
        Voxels of the brain, whose median in `bare` is the unit.
    """
    return (painted - bare).abs() >= SHOWN_CHANGE * bare[brain].median()
