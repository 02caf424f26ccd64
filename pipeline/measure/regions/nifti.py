"""A NIfTI file's voxels and affine from its bytes."""

from __future__ import annotations

import gzip
import zlib

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from pipeline.geometry import Affine
from pipeline.records import Array

_GZIP = b"\x1f\x8b"


def read_nifti(data: bytes) -> tuple[Array, Affine]:
    """Return the voxels of a NIfTI-1 file, gzipped or not, and its 4x4 from index to RAS mm.

    Raises
    ------
    ValueError
        The bytes are none.
    """
    try:
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data) if data.startswith(_GZIP) else data)
        return np.asarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, WrapStructError) as problem:
        raise ValueError(str(problem)) from None
