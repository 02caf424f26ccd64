"""NIfTI files with any header, written by nibabel itself and not by our own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from pipeline.records import Volume

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save_nifti(
    path: Path, array: npt.NDArray[Any], ras_affine: npt.NDArray[Any], *, sform: int = 1, qform: int = 0
) -> Path:
    """Write (x, y, z, ...) voxels with the given transform codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, ras_affine)
    image.set_sform(ras_affine, code=sform)
    image.set_qform(ras_affine if qform else None, code=qform)
    nib.save(image, path)
    return path


def save_volume(path: Path, volume: Volume, **codes: int) -> Path:
    """Write a volume; its axes are stored in reverse order, as NIfTI readers expect columns first."""
    reverse = np.eye(4)[[2, 1, 0, 3]]
    return save_nifti(path, volume.array.transpose(2, 1, 0), _RAS_TO_LPS @ volume.affine @ reverse, **codes)
