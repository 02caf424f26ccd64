"""Two masks onto one grid without resampling: axes are swapped and flipped, never interpolated.

What does not fit is refused.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import GeometryError
from pipeline.geometry import Affine, Grid, apply_affine, as_shape, corner_indices, spacing_mm
from pipeline.records import Volume

TOLERANCE_MM = 0.1
"""Largest distance of two voxel centres that are taken for one: headers round, and SEG positions may jitter.
"""

Index = npt.NDArray[np.int64]


def lay_on_grid(mask: Volume, grid: Grid, *, whole: bool) -> Volume:
    """Return the mask (0 or 1) in the index order of `grid`.

    Parameters
    ----------
    whole
        The mask must cover the grid, as a file of a whole volume does; a DICOM-SEG leaves out empty slices,
        so it may be smaller.

    Raises
    ------
    GeometryError
        "grid-mismatch": other voxel size, place or extent; or a marked voxel outside of the grid.
    """
    matrix, offset = _whole_number_map(mask, grid)
    reached = corner_indices(as_shape(mask.array.shape)) @ matrix.T + offset
    low, high = reached.min(axis=0), reached.max(axis=0)
    if whole and (low.any() or (high != np.array(grid.shape) - 1).any()):
        raise GeometryError(
            f"it covers {_extent(low, high)} of a grid of {_size(grid.shape)} voxels", code="grid-mismatch"
        )
    marked: Index = np.argwhere(mask.array > 0) @ matrix.T + offset
    if (marked < 0).any() or (marked >= grid.shape).any():
        raise GeometryError("it marks voxels outside of the other's grid", code="grid-mismatch")
    array = np.zeros(grid.shape, dtype=np.uint8)
    array[tuple(marked.T)] = 1
    return grid.fill(array)


def covering_grid(first: Volume, second: Volume) -> Grid:
    """Return the smallest grid in the index order of `first` that holds both.

    It serves two DICOM-SEG, which both leave out empty slices.

    Raises
    ------
    GeometryError
        "grid-mismatch": their voxels do not lie on one lattice.
    """
    own_grid = Grid(as_shape(first.array.shape), first.affine, first.frame_of_reference_uid)
    matrix, offset = _whole_number_map(second, own_grid)
    reached = corner_indices(as_shape(second.array.shape)) @ matrix.T + offset
    low = np.minimum(reached.min(axis=0), 0)
    high = np.maximum(reached.max(axis=0), np.array(own_grid.shape) - 1)
    affine = own_grid.affine.copy()
    affine[:3, 3] = apply_affine(own_grid.affine, low)
    return Grid(
        as_shape(tuple(int(size) for size in high - low + 1)), affine, own_grid.frame_of_reference_uid
    )


def _whole_number_map(mask: Volume, grid: Grid) -> tuple[Index, Index]:
    """Return matrix and offset, in whole voxels, from the mask's index to the grid's."""
    exact: Affine = np.linalg.inv(grid.affine) @ mask.affine
    matrix, offset = np.rint(exact[:3, :3]).astype(np.int64), np.rint(exact[:3, 3]).astype(np.int64)
    if not np.array_equal(np.abs(matrix).sum(axis=0), (1, 1, 1)) or not np.array_equal(
        np.abs(matrix).sum(axis=1), (1, 1, 1)
    ):
        raise GeometryError(
            (
                f"voxels of {_size(spacing_mm(mask.affine))} mm do not lie on a grid of "
                f"{_size(spacing_mm(grid.affine))} mm"
            ),
            code="grid-mismatch",
        )
    corners = corner_indices(as_shape(mask.array.shape))
    apart_mm = apply_affine(mask.affine, corners) - apply_affine(grid.affine, corners @ matrix.T + offset)
    worst_mm = float(np.linalg.norm(apart_mm, axis=1).max())
    if worst_mm > min(TOLERANCE_MM, min(spacing_mm(grid.affine)) / 4):
        raise GeometryError(
            f"its voxels lie up to {worst_mm:.2f} mm beside the other's", code="grid-mismatch"
        )
    return matrix, offset


def _size(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _extent(low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{int(start)}..{int(end)}" for start, end in zip(low, high, strict=True))
