"""Asymmetric head phantoms on any grid, with lesions whose place and volume are known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Affine, apply_affine
from pipeline.records import Volume

FRAME = "1.2.826.0.1.3680043.8.498.1"
EDGE_MM = 1.5
BRAIN_RADII_MM = np.array([66.0, 82.0, 62.0])
"""Half axes of the brain along x (left), y (posterior), z (head): 1,406 ml before the dent."""
DENT_MM = np.array([-45.0, -60.0, 20.0])
"""A bite out of the right front, so that no flip or rotation maps the phantom onto itself."""


AXIAL = ((0, 0, 1), (0, 1, 0), (1, 0, 0))
SAGITTAL = ((1, 0, 0), (0, 0, -1), (0, 1, 0))
CORONAL = ((0, 1, 0), (0, 0, -1), (1, 0, 0))
"""LPS direction of (slice, row, column) as scanners store them: the last two are slices to the left, and slices to posterior."""


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
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    directions: npt.ArrayLike,
    centre_mm: npt.ArrayLike = (0, 0, 0),
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
    noise: float = 0.0,
) -> Volume:
    """Return a head without skull: brain with two tissues and a dent; lesions 900 on FLAIR and 150 on T1.

    Parameters
    ----------
    patient_to_head
        4x4 from this image's patient mm to the head's own mm: a patient who moved.
    """
    chain = affine if patient_to_head is None else patient_to_head @ affine
    # A voxel holds the mean over its extent: points at most EDGE_MM apart, and edges that are EDGE_MM wide.
    counts = [max(1, round(float(size) / EDGE_MM)) for size in np.linalg.norm(affine[:3, :3], axis=0)]
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij"), axis=-1)
    offsets = list(itertools.product(*((np.arange(n) + 0.5) / n - 0.5 for n in counts)))
    total = sum(
        _signal(apply_affine(chain, index + np.array(offset)), lesions, contrast) for offset in offsets
    )
    array = np.asarray(total / len(offsets), dtype=np.float32)
    if noise:
        array += np.random.default_rng(7).normal(0, noise, array.shape).astype(np.float32)
    return Volume(np.maximum(array, 0), affine, frame)


def _signal(
    points: npt.NDArray[np.float64], lesions: Sequence[Ball], contrast: str
) -> npt.NDArray[np.float64]:
    inner, outer, lesion = (400.0, 370.0, 900.0) if contrast == "flair" else (520.0, 360.0, 150.0)
    scale = float(BRAIN_RADII_MM.mean())
    depth_mm = (np.linalg.norm(points / BRAIN_RADII_MM, axis=-1) - 1) * scale
    core_mm = (np.linalg.norm((points - (8.0, -5.0, 4.0)) / BRAIN_RADII_MM, axis=-1) - 0.72) * scale
    signal = outer + (inner - outer) * _inside(core_mm)
    for ball in lesions:
        share = _inside(np.linalg.norm(points - ball.at_mm, axis=-1) - ball.radius_mm)
        signal = signal + (lesion - signal) * share
    dent = _inside(np.linalg.norm(points - DENT_MM, axis=-1) - 22)
    answer: npt.NDArray[np.float64] = signal * _inside(depth_mm) * (1 - dent)
    return answer


def _inside(distance_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.clip(0.5 - distance_mm / EDGE_MM, 0, 1)
