"""NIfTI in and out, for work outside the PACS. NIfTI world coordinates are RAS mm, ours are LPS mm."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from dicomnode.errors import StudyRefused
from pipeline.records import Array, Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# NIfTI arrays are indexed (column, row, slice), ours (slice, row, column).
_REVERSE_INDEX = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)


def read_nifti(path: Path, frame_of_reference_uid: str) -> Volume:
    """Read a 3D NIfTI file.

    Parameters
    ----------
    path
        `.nii` or `.nii.gz`.
    frame_of_reference_uid
        NIfTI has none; files that share a space must be given the same.

    Raises
    ------
    StudyRefused
        The file cannot be read ("nifti-unreadable") or is not 3D ("not-3d").
    """
    try:
        image = nib.nifti1.load(path)
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as problem:
        raise StudyRefused(f"{path.name} cannot be read as NIfTI ({type(problem).__name__}).", code="nifti-unreadable") from None
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise StudyRefused(f"{path.name} has {array.ndim} dimensions; give one 3D volume.", code="not-3d")
    affine = _RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64) @ _REVERSE_INDEX
    return Volume(np.ascontiguousarray(array.transpose(2, 1, 0)), affine, frame_of_reference_uid)


def write_nifti(path: Path, array: Array, affine: npt.NDArray[np.float64]) -> None:
    """Write a (slice, row, column) array with its LPS affine as NIfTI (uint or float as given)."""
    image = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), _RAS_TO_LPS @ affine @ _REVERSE_INDEX)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def lps_affine(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the affine (slice, row, column) to LPS of a NIfTI affine, (column, row, slice) to RAS."""
    converted: npt.NDArray[np.float64] = _RAS_TO_LPS @ affine @ _REVERSE_INDEX
    return converted
