"""Images onto a grid whose axes run along theirs: a sparse matrix an axis, for blur and interpolation in one.

Many grids lie so (scanners and networks both like the patient's own axes). Then the three axes are
independent of each other, and only the samples that somebody needs are blurred. The answers are those of the
general way up to the rounding of float32. One thread, so the same bits whatever the machine.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pipeline.geometry import Affine, Shape
from pipeline.records import FloatArray

LARGEST_DRIFT = 1e-6
"""Voxels by which a straight grid may leave its axis from one end to the other."""
AnyFloat = TypeVar("AnyFloat", np.float32, np.float64)
TRUNCATED_SIGMAS = 4.0
"""A Gaussian ends there, as scipy's does."""


def is_straight(matrix: Affine, shape: Shape) -> bool:
    """Return whether each index of a grid moves along the image's axis of the same number alone.

    Parameters
    ----------
    matrix
        4x4 from the grid's index to the image's.
    shape
        Of the grid.
    """
    off_axis = matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))
    return bool((np.abs(off_axis) * np.array(shape) < LARGEST_DRIFT).all())


def sample_straight(
    array: FloatArray, matrix: Affine, shape: Shape, sigmas: tuple[float, float, float]
) -> FloatArray:
    """Blur by `sigmas` voxels along each axis, then interpolate linearly at `matrix @ index`; zero outside.

    A voxel reaches half its size beyond its centre. `matrix` must be straight (`is_straight`).
    """
    ratios = [count / size for count, size in zip(shape, array.shape, strict=True)]
    # What becomes smaller first; of the others the last axis first, since it is the dearest.
    for axis in sorted(range(3), key=lambda axis: (ratios[axis], axis if ratios[axis] <= 1 else -axis)):
        places = matrix[axis, axis] * np.arange(shape[axis]) + matrix[axis, 3]
        weights = _weights(array.shape[axis], places, sigmas[axis]).astype(np.float32)
        array = multiply_lines(weights, array, axis)
    return array


def blur_radius(sigma: float) -> int:
    """Return how many voxels to each side a blur by `sigma` voxels looks at."""
    return int(TRUNCATED_SIGMAS * sigma + 0.5)


def _weights(size: int, places: npt.NDArray[np.float64], sigma: float) -> sparse.csr_matrix:
    """Return (place, voxel): what each voxel of a line of `size` gives to each place on it."""
    # Beyond its ends a line goes on with its last voxels.
    inside = (places >= -0.5) & (places < size - 0.5)
    place = np.clip(places, 0, size - 1)
    before = np.floor(place).astype(np.int64)
    share = place - before
    radius = blur_radius(sigma)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    kernel /= kernel.sum()
    rows, voxels, weights = [], [], []
    for neighbour, part in ((before, 1.0 - share), (before + 1, share)):
        voxels.append(np.clip(neighbour[:, None] + offsets, 0, size - 1).ravel())
        weights.append((np.where(inside, part, 0.0)[:, None] * kernel).ravel())
        rows.append(np.repeat(np.arange(len(places)), len(offsets)))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(voxels)))
    return sparse.coo_matrix(entries, shape=(len(places), size)).tocsr()


def multiply_lines(
    weights: sparse.csr_matrix, array: npt.NDArray[AnyFloat], axis: int
) -> npt.NDArray[AnyFloat]:
    """Return the array (three axes) with each line along `axis` multiplied by `weights`.

    These are (new place, old place). Both are of one type. In one thread, in the order of the places: the
    same bits on every machine.
    """
    first, second, third = array.shape
    if axis == 0:
        flat: npt.NDArray[AnyFloat] = weights @ np.ascontiguousarray(array).reshape(first, -1)
        return flat.reshape(-1, second, third)
    if axis == 1:
        result = np.empty((first, weights.shape[0], third), array.dtype)
        for number, plane in enumerate(array):
            result[number] = weights @ plane
        return result
    turned = np.ascontiguousarray(array.reshape(-1, third).T)
    return np.ascontiguousarray((weights @ turned).T).reshape(first, second, -1)
