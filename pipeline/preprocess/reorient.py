"""Axial canonical order: a pure permutation and flip, so it is exact and can be undone."""

from __future__ import annotations

from pipeline.geometry import Orientation, inverse, orientation_of, reorient
from pipeline.records import Volume


def plan_orientation(volume: Volume) -> Orientation:
    """Return how to bring the volume's axes closest to (head, posterior, left)."""
    return orientation_of(volume.affine)


def apply_orientation(volume: Volume, plan: Orientation) -> Volume:
    """Return the volume in axial canonical order; every voxel keeps its place in the patient."""
    return reorient(volume, plan)


def undo_orientation(volume: Volume, plan: Orientation) -> Volume:
    """Return a volume that lies on a reoriented grid in the source's own order."""
    return reorient(volume, inverse(plan))
