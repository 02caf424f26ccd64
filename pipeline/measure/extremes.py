"""The voxels of a set that can be an end of its diameter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.intp]


def row_ends(voxels: Index) -> Index:
    """Return the first and the last voxel of every row of (slice, row, column) indices.

    Every corner of the convex hull is one of them, so no longest distance is lost.

    >>> row_ends(np.array([[0, 0, 1], [0, 0, 2], [0, 0, 5], [0, 1, 3]])).tolist()
    [[0, 0, 1], [0, 1, 3], [0, 0, 5], [0, 1, 3]]
    """
    order = np.lexsort((voxels[:, 2], voxels[:, 1], voxels[:, 0]))
    ordered = voxels[order]
    new_row = np.any(np.diff(ordered[:, :2], axis=0) != 0, axis=1)
    first = np.concatenate(([True], new_row))
    last = np.concatenate((new_row, [True]))
    return np.concatenate((ordered[first], ordered[last]))


def farthest_pair(points_mm: npt.NDArray[np.float64]) -> tuple[int, int, float]:
    """Return the two points that lie farthest apart and their distance.

    The first such pair when there are several.

    >>> farthest_pair(np.array([[0.0, 0, 0], [3, 4, 0], [1, 1, 1]]))
    (0, 1, 5.0)
    """
    best = (0, 0, 0.0)
    for start in range(len(points_mm)):
        apart = np.linalg.norm(points_mm[start:] - points_mm[start], axis=1)
        end = int(apart.argmax())
        if apart[end] > best[2] + 1e-9:
            best = (start, start + end, float(apart[end]))
    return best


def face_middles(voxels: Index, axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the middles of the faces of voxels across `axes`, as indices; half a voxel from the centre.

    These are the vertices that marching cubes gives a mask, so a voxel is as long as it is, not 0.

    >>> face_middles(np.array([[2, 3, 4]]), (1,)).tolist()
    [[2.0, 2.5, 4.0], [2.0, 3.5, 4.0]]
    """
    steps = [half * np.eye(3)[axis] for axis in axes for half in (-0.5, 0.5)]
    middles: npt.NDArray[np.float64] = (voxels[:, None, :] + np.array(steps)).reshape(-1, 3)
    return middles
