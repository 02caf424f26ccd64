"""NIfTI files brought onto the networks' grids, for measuring during training; the shipped path is `pipeline.run`.

Affines map (slice, row, column) to LPS mm, as in `pipeline.records`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.records import Volume

Float = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(path: Path, frame: str = "0") -> Volume:
    """Read one file as a `Volume`: axes reversed, RAS turned into LPS."""
    import nibabel

    image = nibabel.nifti1.Nifti1Image.from_filename(path)
    array = np.asarray(image.dataobj, dtype=np.float32)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    swap = np.eye(4)[[2, 1, 0, 3]]
    return Volume(np.ascontiguousarray(array.transpose(2, 1, 0)), RAS_TO_LPS @ image.affine @ swap, frame)


def axial_affine(shape: tuple[int, ...], spacing_mm: tuple[float, ...], centre_lps_mm: npt.ArrayLike) -> Affine:
    """Return the affine of an axial canonical grid whose middle lies at `centre_lps_mm` (x, y, z)."""
    affine = np.zeros((4, 4))
    for axis in range(3):
        affine[2 - axis, axis] = spacing_mm[axis]
    affine[3, 3] = 1.0
    middle = (np.asarray(shape) - 1) / 2
    affine[:3, 3] = np.asarray(centre_lps_mm, dtype=float) - affine[:3, :3] @ middle
    return affine


def resample(
    volume: Volume, affine: Affine, shape: tuple[int, ...], *, smooth: bool = True, target_to_source: Affine | None = None
) -> Float:
    """Sample `volume` linearly on another grid; zero outside.

    Parameters
    ----------
    smooth
        Blur first with sigma 0.42*sqrt((target/source)^2 - 1) voxels along each axis that becomes coarser.
    target_to_source
        4x4 from patient mm of the target to patient mm of the source; identity when absent.
    """
    link = np.eye(4) if target_to_source is None else target_to_source
    matrix = np.linalg.inv(volume.affine) @ link @ affine
    array = volume.array.astype(np.float32)
    if smooth:
        # How far one source voxel reaches in target voxels, per source axis.
        reach = np.abs(np.linalg.inv(matrix)[:3, :3]).max(axis=0)
        sigmas = 0.42 * np.sqrt(np.maximum((1 / np.maximum(reach, 1e-6)) ** 2 - 1, 0))
        array = ndimage.gaussian_filter(array, sigmas, mode="nearest")
    found: Float = ndimage.affine_transform(array, matrix[:3, :3], matrix[:3, 3], output_shape=tuple(shape), order=1)
    return found


def field_centre(volume: Volume) -> npt.NDArray[np.float64]:
    """Return the LPS mm of the middle of the field of view."""
    middle = np.append((np.asarray(volume.array.shape) - 1) / 2, 1.0)
    return np.asarray(volume.affine @ middle)[:3]


def covering_grid(volume: Volume, spacing_mm: tuple[float, ...], at_least: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    """Return affine and shape of an axial grid that holds the whole field of view and at least one patch."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in volume.array.shape))))
    points = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    extent = (points.max(axis=0) - points.min(axis=0))[::-1]
    shape = tuple(max(p, int(np.ceil(e / s)) + 1) for p, e, s in zip(at_least, extent, spacing_mm, strict=True))
    return axial_affine(shape, spacing_mm, field_centre(volume)), shape


def predict_tiled(run: Callable[[Float], Float], image: Float, patch: tuple[int, ...]) -> Float:
    """Average the network's answer over overlapping patches; `image` is (channel, slice, row, column)."""
    starts = [
        np.unique(np.round(np.linspace(0, n - p, 1 + int(np.ceil(2 * (n - p) / p)))).astype(int))
        for n, p in zip(image.shape[1:], patch, strict=True)
    ]
    total, count = np.zeros(image.shape[1:], np.float32), np.zeros(image.shape[1:], np.float32)
    for corner in itertools.product(*starts):
        box = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        total[box] += run(image[(slice(None), *box)])
        count[box] += 1
    return total / count


def largest_component(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest 6-connected piece with its holes filled."""
    labels, number = ndimage.label(mask)
    if number > 1:
        mask = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled
