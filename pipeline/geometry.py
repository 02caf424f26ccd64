"""Pure functions on affines and grids.

Indices are (slice, row, column); patient coordinates are LPS mm (PS3.3 C.7.6.2.1.1).

No image is resampled here; what moves voxels (`reorient`) only permutes and flips axes, so it is exact and
can be undone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import GeometryError
from pipeline.records import Array, Volume

Affine = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]
Shape = tuple[int, int, int]
Triple = tuple[float, float, float]

_CANONICAL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Rows: the LPS direction of axis 0 (head), axis 1 (posterior), axis 2 (left) of the axial canonical order.
"""
LARGEST_SHEAR = 0.02
"""Largest cosine between two axes of a grid that still counts as perpendicular."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A volume without its voxels: shape (slice, row, column), 4x4 index to LPS mm, frame of reference."""

    shape: Shape
    affine: Affine
    frame_of_reference_uid: str

    def fill(self, array: Array) -> Volume:
        """Return `array` as a volume on this grid."""
        if array.shape != self.shape:
            raise GeometryError(
                f"shape {array.shape} does not fit the grid {self.shape}", code="grid-mismatch"
            )
        return Volume(array, self.affine, self.frame_of_reference_uid)

    def thin(self, step: int) -> Grid:
        """Return the grid of each `step`-th voxel along each axis, from the first on."""
        shape = as_shape(tuple(-(-count // step) for count in self.shape))
        return Grid(shape, self.affine @ np.diag([step, step, step, 1.0]), self.frame_of_reference_uid)


@dataclass(frozen=True)
class Orientation:
    """How to bring an array into axial canonical order.

    New axis k is old axis `axes[k]`, reversed where `flips[k]`.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]


def grid_of(volume: Volume) -> Grid:
    """Return the grid that a volume lies on."""
    return Grid(as_shape(volume.array.shape), volume.affine, volume.frame_of_reference_uid)


def as_shape(shape: tuple[int, ...]) -> Shape:
    """Return a shape that is known to have three axes.

    >>> as_shape((2, 3, 4))
    (2, 3, 4)
    """
    first, second, third = shape
    return first, second, third


def apply_affine(affine: Affine, points: npt.ArrayLike) -> Points:
    """Map points (..., 3) by a 4x4 matrix.

    >>> apply_affine(np.diag([2.0, 3.0, 4.0, 1.0]), [1, 1, 1]).tolist()
    [2.0, 3.0, 4.0]
    """
    mapped: Points = np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]
    return mapped


def index_to_lps(affine: Affine, index: npt.ArrayLike) -> Triple:
    """Return the LPS mm of one (slice, row, column) index; integers are voxel centres.

    >>> index_to_lps(axial_affine((3, 3, 3), (5.0, 1.0, 1.0), (0.0, 0.0, 0.0)), (2, 1, 0))
    (-1.0, 0.0, 5.0)
    """
    x, y, z = (float(value) for value in apply_affine(affine, index))
    return x, y, z


def lps_to_index(affine: Affine, point_mm: npt.ArrayLike) -> Triple:
    """Return the fractional (slice, row, column) index of one LPS point in mm.

    >>> lps_to_index(axial_affine((3, 3, 3), (5.0, 1.0, 1.0), (0.0, 0.0, 0.0)), (-1.0, 0.0, 5.0))
    (2.0, 1.0, 0.0)
    """
    return index_to_lps(np.asarray(np.linalg.inv(affine), dtype=np.float64), point_mm)


def spacing_mm(affine: Affine) -> Triple:
    """Return the distance of neighbouring voxel centres along (slice, row, column).

    >>> spacing_mm(np.diag([-4.0, 0.5, 1.0, 1.0]))
    (4.0, 0.5, 1.0)
    """
    first, second, third = (float(value) for value in np.linalg.norm(affine[:3, :3], axis=0))
    return first, second, third


def voxel_volume_mm3(affine: Affine) -> float:
    """Return the volume of one voxel, right also for sheared grids.

    >>> round(voxel_volume_mm3(np.diag([-4.0, 0.5, 1.0, 1.0])), 6)
    2.0
    """
    return float(abs(np.linalg.det(affine[:3, :3])))


def shear(affine: Affine) -> float:
    """Return the largest cosine between two axes of a grid, 0 when all are perpendicular.

    >>> shear(np.diag([-4.0, 0.5, 1.0, 1.0]))
    0.0
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def same_grid(first: Volume | Grid, second: Volume | Grid, tolerance_mm: float = 1e-3) -> bool:
    """Return whether two volumes share shape, frame of reference and the place of every voxel.

    >>> grid = Grid((2, 3, 4), np.eye(4), "1.2.3")
    >>> same_grid(grid, grid), same_grid(grid, Grid((2, 3, 4), np.eye(4), "1.2.4"))
    (True, False)
    """
    if _shape(first) != _shape(second) or first.frame_of_reference_uid != second.frame_of_reference_uid:
        return False
    corners = corner_indices(_shape(first))
    apart = apply_affine(first.affine, corners) - apply_affine(second.affine, corners)
    return bool(np.abs(apart).max() <= tolerance_mm)


def corner_indices(shape: Shape) -> Points:
    """Return the eight corner voxel centres as (8, 3) indices.

    >>> corner_indices((2, 3, 4))[-1].tolist()
    [1.0, 2.0, 3.0]
    """
    return np.array(list(itertools.product(*((0.0, n - 1.0) for n in shape))))


def centre_lps(grid: Grid) -> Triple:
    """Return the LPS mm of the middle of the field of view.

    >>> centre_lps(Grid((3, 3, 3), np.eye(4), "1.2.3"))
    (1.0, 1.0, 1.0)
    """
    return index_to_lps(grid.affine, (np.asarray(grid.shape) - 1) / 2)


def extent_mm(grid: Grid) -> Triple:
    """Return how far the voxel centres reach along (head, posterior, left) in mm.

    >>> extent_mm(Grid((3, 4, 5), axial_affine((3, 4, 5), (2.0, 1.0, 1.0), (0, 0, 0)), "1.2.3"))
    (4.0, 3.0, 4.0)
    """
    points = apply_affine(grid.affine, corner_indices(grid.shape))
    x, y, z = (float(value) for value in points.max(axis=0) - points.min(axis=0))
    return z, y, x


def axial_affine(shape: Shape, spacing: Triple, centre_lps_mm: npt.ArrayLike) -> Affine:
    """Return the affine of an axial canonical grid whose middle lies at `centre_lps_mm` (x, y, z).

    >>> axial_affine((1, 1, 1), (3.0, 2.0, 1.0), (7.0, 8.0, 9.0))[:3].tolist()
    [[0.0, 0.0, 1.0, 7.0], [0.0, 2.0, 0.0, 8.0], [3.0, 0.0, 0.0, 9.0]]
    """
    affine = np.eye(4)
    affine[:3, :3] = _CANONICAL.T * np.asarray(spacing)
    affine[:3, 3] = np.asarray(centre_lps_mm, dtype=np.float64) - affine[:3, :3] @ (
        (np.asarray(shape) - 1) / 2
    )
    return affine


def orientation_of(affine: Affine) -> Orientation:
    """Return the permutation and flips that come closest to axial canonical order.

    The permutation with the largest sum of direction cosines is taken, so an oblique grid has one answer too.

    Here the slices run to the left, the rows to posterior and the columns to the head.

    >>> orientation_of(np.diag([1.0, 1.0, 1.0, 1.0]))
    Orientation(axes=(2, 1, 0), flips=(False, False, False))
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = _CANONICAL @ directions
    axes = max(
        itertools.permutations(range(3)),
        key=lambda order: sum(abs(cosines[k, axis]) for k, axis in enumerate(order)),
    )
    flips = [bool(cosines[k, axis] < 0) for k, axis in enumerate(axes)]
    return Orientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def reorient(volume: Volume, orientation: Orientation) -> Volume:
    """Permute and flip the axes; every voxel keeps its place in the patient."""
    old_shape = volume.array.shape
    array = np.flip(
        volume.array.transpose(orientation.axes), tuple(k for k in range(3) if orientation.flips[k])
    )
    step = np.zeros((4, 4))
    step[3, 3] = 1.0
    for k, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        step[axis, k] = -1.0 if flip else 1.0
        step[axis, 3] = old_shape[axis] - 1.0 if flip else 0.0
    return Volume(array, volume.affine @ step, volume.frame_of_reference_uid)


def inverse(orientation: Orientation) -> Orientation:
    """Return the orientation that undoes `orientation`.

    >>> inverse(Orientation((2, 0, 1), (True, False, False)))
    Orientation(axes=(1, 2, 0), flips=(False, False, True))
    """
    axes = [orientation.axes.index(axis) for axis in range(3)]
    flips = [orientation.flips[k] for k in axes]
    return Orientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def _shape(item: Volume | Grid) -> Shape:
    return item.shape if isinstance(item, Grid) else as_shape(item.array.shape)
