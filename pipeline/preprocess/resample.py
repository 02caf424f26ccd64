"""Images onto another grid.

The resampling schemes that a manifest can name, and the grids that networks work on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from pipeline.errors import BundleError
from pipeline.geometry import (
    Affine,
    Grid,
    Shape,
    Triple,
    apply_affine,
    as_shape,
    axial_affine,
    centre_lps,
    extent_mm,
    index_to_lps,
    spacing_mm,
)
from pipeline.preprocess.straight import blur_radius, is_straight, sample_straight
from pipeline.records import FloatArray, Volume

IDENTITY: Affine = np.eye(4)


def plan_covering_grid(grid: Grid, spacing: Triple, at_least: Shape) -> Grid:
    """Return an axial canonical grid that holds all of the field of view.

    It is centred on the field of view and holds at least one patch.
    """
    shape = [
        max(p, int(np.ceil(e / s)) + 1) for p, e, s in zip(at_least, extent_mm(grid), spacing, strict=True)
    ]
    return Grid(
        as_shape(tuple(shape)),
        axial_affine(as_shape(tuple(shape)), spacing, centre_lps(grid)),
        grid.frame_of_reference_uid,
    )


def plan_mask_grid(mask: Volume, spacing: Triple, at_least: Shape) -> Grid:
    """Return an axial canonical grid centred on the box of an axial canonical mask.

    It is at least one patch large.
    """
    # First and last slice, row and column of the mask.
    inside = [
        np.flatnonzero(mask.array.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)
    ]
    # The box's middle becomes the grid's.
    middle = [(occupied[0] + occupied[-1]) / 2 for occupied in inside]
    size_mm = [
        (occupied[-1] - occupied[0] + 1) * step
        for occupied, step in zip(inside, spacing_mm(mask.affine), strict=True)
    ]
    shape = as_shape(
        tuple(max(p, int(np.ceil(size / s))) for p, size, s in zip(at_least, size_mm, spacing, strict=True))
    )
    return Grid(
        shape, axial_affine(shape, spacing, index_to_lps(mask.affine, middle)), mask.frame_of_reference_uid
    )


def apply_resampling(scheme: str, volume: Volume, grid: Grid, link: Affine = IDENTITY) -> FloatArray:
    """Return the volume sampled on `grid` by a named scheme; zero outside the field of view.

    Parameters
    ----------
    link
        4x4 from patient mm of the grid to patient mm of the volume (what registration found).

    Raises
    ------
    BundleError
        The scheme is not known.
    """
    try:
        resample = SCHEMES[scheme]
    except KeyError:
        raise BundleError(
            f"resampling scheme {scheme!r} is not one of {sorted(SCHEMES)}", code="model-manifest-invalid"
        ) from None
    return resample(volume, grid, link)


def sample_linear(volume: Volume, grid: Grid, link: Affine = IDENTITY) -> FloatArray:
    """Return the volume linearly interpolated at the grid's voxel centres, zero outside.

    There is no smoothing.
    """
    matrix = np.linalg.inv(volume.affine) @ link @ grid.affine
    array, matrix = _crop(volume.array, matrix, grid.shape, (0, 0, 0))
    return _interpolate(array, matrix, grid.shape)


def sample_gaussian_linear(
    volume: Volume, grid: Grid, link: Affine = IDENTITY, *, every: int = 1
) -> FloatArray:
    """Blur each axis that becomes coarser, then interpolate linearly.

    Sigma is 0.42*sqrt((target/source)^2 - 1) voxels. With `every` only each so many-th voxel of the grid
    along each axis is computed: what the whole answer would hold there.
    """
    matrix = np.linalg.inv(volume.affine) @ link @ grid.affine
    # Length of one source step, counted in target voxels.
    reach = np.linalg.norm(np.linalg.inv(matrix)[:3, :3], axis=0)
    sigmas = 0.42 * np.sqrt(np.maximum((1 / np.maximum(reach, 1e-6)) ** 2 - 1, 0))
    thinned = grid.thin(every)
    matrix = np.linalg.inv(volume.affine) @ link @ thinned.affine
    array, matrix = _crop(volume.array, matrix, thinned.shape, [blur_radius(sigma) for sigma in sigmas])
    if sigmas.any() and is_straight(matrix, thinned.shape):
        return sample_straight(array, matrix, thinned.shape, tuple(sigmas.tolist()))
    # An axis that becomes finer is not blurred.
    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            array = _blur(array, float(sigma), axis)
    return _interpolate(array, matrix, thinned.shape)


def find_inside(volume: Volume, grid: Grid, link: Affine = IDENTITY) -> npt.NDArray[np.bool_]:
    """Return which of the grid's voxel centres lie in the volume, half a voxel around its outer centres."""
    outside = SimpleITK.Resample(
        SimpleITK.Image([int(n) for n in volume.array.shape[::-1]], SimpleITK.sitkUInt8),
        SimpleITK.Image([int(n) for n in grid.shape[::-1]], SimpleITK.sitkUInt8),
        _index_transform(np.linalg.inv(volume.affine) @ link @ grid.affine),
        SimpleITK.sitkNearestNeighbor,
        1.0,
        SimpleITK.sitkUInt8,
    )
    inside: npt.NDArray[np.bool_] = SimpleITK.GetArrayFromImage(outside) == 0
    return inside


def _crop(array: FloatArray, matrix: Affine, shape: Shape, reach: Sequence[int]) -> tuple[FloatArray, Affine]:
    """Return the part of an image that a grid needs, float32, and the 4x4 from the grid's index to its own.

    `reach` is how many voxels beside a place along each axis are blurred into it. Where the part ends inside
    the image, no place lies within a voxel of that end.
    """
    corners = np.stack(np.meshgrid(*((0, count - 1) for count in shape)), axis=-1).reshape(-1, 3)
    places = apply_affine(matrix, corners)
    sizes = np.array(array.shape)
    low = np.floor(places.min(axis=0) - 1).astype(int) - reach
    high = np.ceil(places.max(axis=0) + 2).astype(int) + reach
    # At least one voxel, also of an image that lies elsewhere.
    low = low.clip(0, sizes - 1)
    high = np.maximum(high.clip(0, sizes), low + 1)
    box = tuple(slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
    to_box = matrix.copy()
    to_box[:3, 3] -= low
    return array[box].astype(np.float32, copy=False), to_box


def _blur(array: FloatArray, sigma: float, axis: int) -> FloatArray:
    """Blur along one axis, on two cores: no line along it looks at another, so two halves are the whole."""
    blurred = np.empty_like(array)
    across = 1 if axis == 0 else 0
    middle = array.shape[across] // 2
    halves = [(slice(None),) * across + (half,) for half in (slice(middle), slice(middle, None))]

    def blur(half: tuple[slice, ...]) -> None:
        ndimage.gaussian_filter1d(array[half], sigma, axis=axis, output=blurred[half], mode="nearest")

    with ThreadPoolExecutor(1, thread_name_prefix="blur") as other_core:
        first = other_core.submit(blur, halves[0])
        blur(halves[1])
        first.result()
    return blurred


def _interpolate(array: FloatArray, matrix: Affine, shape: Shape) -> FloatArray:
    """Interpolate linearly at `matrix @ index`.

    A voxel reaches half its size beyond its centre, further out is zero.

    The half voxel matters: without it the first and the last slice of a thick series would fade into nothing.
    """
    transform = _index_transform(matrix)
    source = SimpleITK.GetImageFromArray(np.ascontiguousarray(array))
    target = SimpleITK.Image([int(n) for n in shape[::-1]], SimpleITK.sitkUInt8)
    answer: FloatArray = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(source, target, transform, SimpleITK.sitkLinear, 0.0, SimpleITK.sitkFloat32)
    )
    return answer


def _index_transform(matrix: Affine) -> SimpleITK.AffineTransform:
    """Return a matrix of indices as SimpleITK's on plain index space.

    Its indices run (column, row, slice).
    """
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(matrix[2::-1, 2::-1].ravel().tolist())
    transform.SetTranslation(matrix[2::-1, 3].tolist())
    return transform


SCHEMES: Mapping[str, Callable[[Volume, Grid, Affine], FloatArray]] = {
    "gaussian-linear": sample_gaussian_linear,
    "linear": sample_linear,
}
"""Name in the manifest to function; another convention (nnU-Net's) is one more row."""
