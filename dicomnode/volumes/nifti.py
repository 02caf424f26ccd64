"""NIfTI in and out, for work outside the PACS. NIfTI world coordinates are RAS mm, ours are LPS mm."""

from __future__ import annotations

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from dicomnode.errors import StudyRefused
from pipeline.counts import counted
from pipeline.geometry import shear
from pipeline.records import Array, Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_QFORM_SHEAR = 1e-4
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, nib.spatialimages.HeaderDataError)
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
        The file cannot be read ("nifti-unreadable"), is not 3D ("not-3d"), holds no real numbers
        ("not-real"), does not say where it lies in the patient ("affine-missing"), or says two things of left
        and right ("affine-contradiction").
    ImageError, GeometryError
        A voxel is not finite ("voxels-not-finite") or the affine cannot be inverted ("affine-invalid").
    """
    try:
        image = nib.nifti1.load(path)
    except (*_UNREADABLE, nib.filebasedimages.ImageFileError) as problem:
        raise _unreadable(path.name, problem) from None
    return volume_of_image(image, path.name, frame_of_reference_uid)


def volume_of_image(image: nib.nifti1.Nifti1Image, name: str, frame_of_reference_uid: str) -> Volume:
    """Return an opened NIfTI image as a volume; it raises what `read_nifti` raises, under `name`."""
    try:
        if image.get_data_dtype().kind not in "iuf":
            raise StudyRefused(
                f"{name} holds {image.get_data_dtype()} values; give one real number a voxel.",
                code="not-real",
            )
        _check_orientation(name, image)
        array = np.asarray(image.dataobj, dtype=np.float32)
    except _UNREADABLE as problem:
        raise _unreadable(name, problem) from None
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise StudyRefused(
            f"{name} has {counted(array.ndim, 'dimension')}; give one 3D volume.", code="not-3d"
        )
    affine = lps_affine(np.asarray(image.affine, dtype=np.float64))
    return Volume(np.ascontiguousarray(array.transpose(2, 1, 0)), affine, frame_of_reference_uid)


def _unreadable(name: str, problem: Exception) -> StudyRefused:
    return StudyRefused(
        f"{name} cannot be read as NIfTI ({type(problem).__name__}).", code="nifti-unreadable"
    )


def _check_orientation(name: str, image: nib.nifti1.Nifti1Image) -> None:
    """Refuse a file of which left and right are not known: without either transform readers guess."""
    qform, qform_code = image.get_qform(coded=True)
    sform, sform_code = image.get_sform(coded=True)
    if not qform_code and not sform_code:
        raise StudyRefused(
            (
                f"{name} has neither qform nor sform: where left and right are in it is unknown. Set "
                "its orientation."
            ),
            code="affine-missing",
        )
    if qform_code and sform_code and np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0:
        raise StudyRefused(
            f"{name}: qform and sform put left on different sides. Repair its header.",
            code="affine-contradiction",
        )


def write_nifti(path: Path, array: Array, affine: npt.NDArray[np.float64]) -> None:
    """Write a (slice, row, column) array with its LPS affine as NIfTI (uint or float as given)."""
    nib.save(image_of_array(array, affine), path)


def image_of_array(array: Array, affine: npt.NDArray[np.float64]) -> nib.nifti1.Nifti1Image:
    """Return a (slice, row, column) array in LPS as a NIfTI image, (column, row, slice) in RAS."""
    ras = _RAS_TO_LPS @ affine @ _REVERSE_INDEX
    image = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), ras)
    image.header.set_xyzt_units("mm")
    # Both transforms, as scanner coordinates: some readers look at one only. A sheared grid has no qform that
    # is true.
    image.set_sform(ras, code=1)
    image.set_qform(ras if shear(ras) < _QFORM_SHEAR else None, code=1 if shear(ras) < _QFORM_SHEAR else 0)
    return image


def lps_affine(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the affine (slice, row, column) to LPS of a NIfTI affine, (column, row, slice) to RAS."""
    converted: npt.NDArray[np.float64] = _RAS_TO_LPS @ affine @ _REVERSE_INDEX
    return converted
