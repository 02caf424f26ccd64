"""The two converters, each called once.

Dicom2nifti, whose volume is used, and highdicom, which must agree with it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dicom2nifti.convert_generic
import highdicom
import highdicom.image
import numpy as np
import numpy.typing as npt
from dicom2nifti.exceptions import ConversionError, ConversionValidationError
from pydicom.dataset import Dataset

from dicomnode.errors import StudyRefused
from dicomnode.volumes.nifti import lps_affine
from pipeline.records import Array

CORNER_TOLERANCE_MM = 0.01

# Highdicom searches its tables of the standard anew for each slice whether its class has pixels, which takes
# three quarters of the conversion; the answer depends on nothing but the class.
_PIXEL_SEARCH = "does_iod_have_pixel_data"
if _PIXEL_SEARCH in vars(highdicom.image):
    vars(highdicom.image)[_PIXEL_SEARCH] = functools.cache(vars(highdicom.image)[_PIXEL_SEARCH])

Affine = npt.NDArray[np.float64]


def convert_with_dicom2nifti(
    copies: Sequence[Dataset], normal: npt.NDArray[np.float64], output: Path
) -> tuple[Array, Affine]:
    """Return array (slice, row, column) and LPS affine, slices ascending along `normal`.

    All validations of dicom2nifti are on.

    The generic converter is called directly: the choice by manufacturer would look for time series that were
    ruled out before.

    Raises
    ------
    StudyRefused
        "conversion-refused" with dicom2nifti's own code.
    """
    try:
        image = dicom2nifti.convert_generic.dicom_to_nifti(list(copies), str(output))["NII"]
    except (ConversionError, ConversionValidationError) as refusal:
        sentence = (
            f"dicom2nifti refuses the series: {refusal.message if hasattr(refusal, 'message') else refusal}."
        )
        raise StudyRefused(sentence, code="conversion-refused") from None
    array = np.asarray(image.dataobj)
    if array.ndim != 3:
        raise StudyRefused("dicom2nifti reads the series as several volumes.", code="conversion-refused")
    return _ascending(
        array.transpose(2, 1, 0), lps_affine(np.asarray(image.affine, dtype=np.float64)), normal
    )


def convert_with_highdicom(
    copies: Sequence[Dataset], normal: npt.NDArray[np.float64], tolerance_mm: float
) -> tuple[Array, Affine]:
    """Return the same from highdicom's reading of the geometry.

    Raises
    ------
    StudyRefused
        "geometry-disagreement" when highdicom sees no regular volume where dicom2nifti saw one.
    """
    plain: dict[str, Any] = {
        "apply_real_world_transform": False,
        "apply_voi_transform": False,
        "apply_presentation_lut": False,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(copies) == 1:
                volume = highdicom.Image.from_dataset(copies[0], copy=False).get_volume(
                    atol=tolerance_mm, **plain
                )
            else:
                volume = highdicom.get_volume_from_series(copies, atol=tolerance_mm, **plain)
    except (ValueError, RuntimeError, AttributeError) as problem:
        sentence = f"highdicom sees no regular volume in the series ({problem})."
        raise StudyRefused(sentence, code="geometry-disagreement") from None
    return _ascending(volume.array, np.asarray(volume.affine, dtype=np.float64), normal)


def compare_witnesses(first: tuple[Array, Affine], second: tuple[Array, Affine]) -> None:
    """Refuse unless both volumes have one shape, one place (0.01 mm over the corners) and one set of values.

    Raises
    ------
    StudyRefused
        "geometry-disagreement" or "voxel-disagreement".
    """
    if first[0].shape != second[0].shape:
        sentence = (
            f"Two converters disagree on the shape of the volume: {first[0].shape} and {second[0].shape}."
        )
        raise StudyRefused(sentence, code="geometry-disagreement")
    apart_mm = corner_distance_mm(first[1], second[1], first[0].shape)
    if apart_mm > CORNER_TOLERANCE_MM:
        sentence = (
            f"Two converters disagree on the place of the volume by {apart_mm:.3f} mm; nothing is guessed."
        )
        raise StudyRefused(sentence, code="geometry-disagreement")
    scale = max(1.0, float(np.abs(first[0]).max()))
    if _largest_difference(first[0], second[0]) > 1e-5 * scale:
        raise StudyRefused(
            "Two converters disagree on the voxel values; nothing is guessed.", code="voxel-disagreement"
        )


def _largest_difference(first: Array, second: Array) -> float:
    """Return the largest difference of two arrays of one shape, NaN where one is not a number.

    Slice by slice: differences of a whole volume take several times as long, they leave the processor's
    caches.
    """
    pairs = zip(first, second, strict=True)
    return float(np.max([np.abs(np.subtract(*pair, dtype=np.float64)).max() for pair in pairs]))


def corner_distance_mm(first: Affine, second: Affine, shape: Sequence[int]) -> float:
    """Return the largest distance, over the eight corner voxels, of where two affines put them."""
    corners = np.array(np.meshgrid(*([0, size - 1] for size in shape), indexing="ij")).reshape(3, -1)
    apart = (first - second) @ np.vstack([corners, np.ones(corners.shape[1])])
    return float(np.linalg.norm(apart[:3], axis=0).max())


def _ascending(array: Array, affine: Affine, normal: npt.NDArray[np.float64]) -> tuple[Array, Affine]:
    """Reverse axis 0 where it runs against the normal."""
    if float(affine[:3, 0] @ normal) >= 0:
        return array, affine
    turned = affine.copy()
    turned[:3, 3] = affine[:3, 3] + (array.shape[0] - 1) * affine[:3, 0]
    turned[:3, 0] = -affine[:3, 0]
    return array[::-1], turned
