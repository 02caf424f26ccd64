"""NIfTI files brought onto the networks' grids, for measuring during training.

The shipped path is `pipeline.run`.

Affines map (slice, row, column) to LPS mm, as in `pipeline.records`.
"""

from __future__ import annotations

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


def axial_affine(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], centre_lps_mm: npt.ArrayLike
) -> Affine:
    """Return the affine of an axial canonical grid whose middle lies at `centre_lps_mm` (x, y, z)."""
    affine = np.zeros((4, 4))
    for axis in range(3):
        affine[2 - axis, axis] = spacing_mm[axis]
    affine[3, 3] = 1.0
    middle = (np.asarray(shape) - 1) / 2
    affine[:3, 3] = np.asarray(centre_lps_mm, dtype=float) - affine[:3, :3] @ middle
    return affine


def resample(
    volume: Volume,
    affine: Affine,
    shape: tuple[int, ...],
    *,
    smooth: bool = True,
    target_to_source: Affine | None = None,
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
    transformed: Float = ndimage.affine_transform(
        array, matrix[:3, :3], matrix[:3, 3], output_shape=tuple(shape), order=1
    )
    return transformed
