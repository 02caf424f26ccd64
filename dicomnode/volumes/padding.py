"""Pixels that are no image: Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), made background.

The values are stored values, before rescale. They are written in the sign of Pixel Representation; some write
them in the other one, which is the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicomnode.study.elements import read_number
from pipeline.records import Array


def find_padding(stored: Array, dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """Return which pixels are padding; None where the instance declares none.

    Parameters
    ----------
    stored
        Integers of any shape, as decoded.
    dataset
        What Pixel Padding Value (0028,0120) and Pixel Padding Range Limit (0028,0121) are read from.
    """
    value = read_number(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = read_number(dataset, "PixelPaddingRangeLimit")
    ends = sorted(_as_stored(number, stored.dtype) for number in (value, value if limit is None else limit))
    padding: npt.NDArray[np.bool_] = (stored >= ends[0]) & (stored <= ends[1])
    return padding


def background_of(lowest: float, transform: Dataset, image: Array) -> int:
    """Return the stored value that stands for background in one slice.

    Parameters
    ----------
    lowest
        Lowest modality value of the whole stack's image.
    transform
        The slice's modality transform.
    image
        Stored values of the slice that are no padding.
    """
    signal = min(0.0, lowest)
    if "ModalityLUTSequence" in transform:
        return int(image.min()) if image.size else 0
    slope, intercept = (
        float(transform.get("RescaleSlope") or 1.0),
        float(transform.get("RescaleIntercept") or 0.0),
    )
    limits = np.iinfo(image.dtype)
    return int(np.clip(round((signal - intercept) / slope), limits.min, limits.max))


def _as_stored(number: float, dtype: np.dtype[np.integer[Any]]) -> int:
    """Return a value as the stored type holds its bits: 63536 in a signed type of 16 bits is -2000."""
    limits = np.iinfo(dtype)
    integer = int(number)
    return (
        integer
        if limits.min <= integer <= limits.max
        else (integer - int(limits.min)) % 2**limits.bits + int(limits.min)
    )
