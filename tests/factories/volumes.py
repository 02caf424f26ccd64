"""Asymmetric head phantoms on any grid, with lesions whose place and volume are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Affine, apply_affine
from pipeline.records import Volume

FRAME = "1.2.826.0.1.3680043.8.498.1"
BRAIN_RADII_MM = np.array([66.0, 82.0, 62.0])
"""Half axes of the brain along x (left), y (posterior), z (head): 1,406 ml before the dent."""
DENT_MM = np.array([-45.0, -60.0, 20.0])
"""A bite out of the right front, so that no flip or rotation maps the phantom onto itself."""


@dataclass(frozen=True)
class Ball:
    """A spherical lesion: LPS mm from the brain's middle, radius in mm."""

    at_mm: tuple[float, float, float]
    radius_mm: float

    @property
    def volume_ml(self) -> float:
        """Volume of the ball."""
        return 4 / 3 * np.pi * self.radius_mm**3 / 1000


LEFT_BALL = Ball((30.0, 10.0, 15.0), 14.0)
RIGHT_BALL = Ball((-28.0, 30.0, -10.0), 9.0)


def grid_affine(
    shape: Sequence[int], spacing: Sequence[float], *, directions: npt.ArrayLike, centre_mm: npt.ArrayLike = (0, 0, 0)
) -> Affine:
    """Return index (slice, row, column) to LPS mm; `directions` has the LPS direction of each axis as its rows."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float).T * np.asarray(spacing, float)
    affine[:3, 3] = np.asarray(centre_mm, float) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def rotation(axis: Sequence[float], degrees: float) -> npt.NDArray[np.float64]:
    """Return the 3x3 rotation about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    turn: npt.NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn


def draw_head(
    shape: Sequence[int],
    affine: Affine,
    *,
    lesions: Sequence[Ball] = (LEFT_BALL, RIGHT_BALL),
    contrast: str = "flair",
    frame: str = FRAME,
    patient_to_head: Affine | None = None,
    subsamples: int = 2,
    noise: float = 0.0,
) -> Volume:
    """Return a head: brain 400 with two tissues, dent, dark rim; lesions 900 on FLAIR and 150 on T1.

    Parameters
    ----------
    patient_to_head
        4x4 from this image's patient mm to the head's own mm: a patient who moved.
    subsamples
        Points per voxel and axis; the voxel holds their mean (partial volume).
    """
    total = np.zeros(tuple(shape), np.float64)
    offsets = (np.arange(subsamples) + 0.5) / subsamples - 0.5
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    chain = affine if patient_to_head is None else patient_to_head @ affine
    for first in offsets:
        for second in offsets:
            for third in offsets:
                total += _signal(apply_affine(chain, index + np.array([first, second, third])), lesions, contrast)
    array = (total / subsamples**3).astype(np.float32)
    if noise:
        array += np.random.default_rng(7).normal(0, noise, array.shape).astype(np.float32)
    return Volume(np.maximum(array, 0), affine, frame)


def _signal(points: npt.NDArray[np.float64], lesions: Sequence[Ball], contrast: str) -> npt.NDArray[np.float64]:
    depth = np.linalg.norm(points / BRAIN_RADII_MM, axis=-1)
    brain = (depth < 1) & (np.linalg.norm(points - DENT_MM, axis=-1) > 22)
    core = np.linalg.norm((points - (8.0, -5.0, 4.0)) / (0.72 * BRAIN_RADII_MM), axis=-1) < 1
    inner, outer = (420.0, 380.0) if contrast == "flair" else (520.0, 360.0)
    signal = np.where(brain, np.where(core, inner, outer), 0.0)
    for ball in lesions:
        inside = np.linalg.norm(points - ball.at_mm, axis=-1) < ball.radius_mm
        signal[inside & brain] = 900.0 if contrast == "flair" else 150.0
    return signal
