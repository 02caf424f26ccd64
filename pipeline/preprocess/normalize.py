"""Intensities onto the scale that a network was trained on: the schemes that a manifest can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import BundleError, ImageError
from pipeline.records import FloatArray

Mask = npt.NDArray[np.bool_]


def apply_normalization(
    scheme: str, image: FloatArray, mask: Mask | None, parameters: Mapping[str, Any]
) -> tuple[FloatArray, dict[str, Any]]:
    """Return the scaled image and the numbers that were used.

    Parameters
    ----------
    image
        (slice, row, column) on the network's grid.
    mask
        Brain on the same grid; None for a network that takes the whole head.

    Raises
    ------
    BundleError
        The scheme is not known.
    ImageError
        The image cannot be scaled (no signal).
    """
    try:
        normalize = SCHEMES[scheme]
    except KeyError:
        raise BundleError(
            f"normalisation scheme {scheme!r} is not one of {sorted(SCHEMES)}", code="model-manifest-invalid"
        ) from None
    return normalize(image, mask, parameters)


def normalize_by_brain_median(
    image: FloatArray, mask: Mask | None, parameters: Mapping[str, Any]
) -> tuple[FloatArray, dict[str, Any]]:
    """Divide by the median inside the brain, clip, zero outside: lesions hardly move a median."""
    if mask is None:
        raise BundleError(
            "brain-median needs a brain mask; the manifest says whole head", code="model-manifest-invalid"
        )
    median = float(np.median(image[mask])) if mask.any() else 0.0
    if median <= 0:
        raise ImageError(
            "the median inside the brain is not positive: the image does not show the brain there",
            code="brain-without-signal",
        )
    # A median of one, and nothing far above it: bright fat and vessels say no more than bright.
    low, high = parameters.get("clip", (0.0, 3.0))
    return (image / np.float32(median)).clip(low, high) * mask, {"median": median, "clip": [low, high]}


def normalize_by_percentiles(
    image: FloatArray, mask: Mask | None, parameters: Mapping[str, Any]
) -> tuple[FloatArray, dict[str, Any]]:
    """Scale the voxels above zero from their low and high percentile to 0..1.

    What is not above zero becomes zero.
    """
    # What is exactly zero was masked or lies outside the field of view.
    positive = image > 0 if mask is None else (image > 0) & mask
    values = image[positive]
    if not len(values):
        raise ImageError("the image has no voxel above zero", code="no-positive-voxels")
    ranks = [
        round(parameters.get(key, default) / 100 * (len(values) - 1))
        for key, default in (("low", 0.5), ("high", 99.5))
    ]
    # Only the two ranks need to be in place.
    ordered = np.partition(values, ranks)
    low, high = (float(ordered[rank]) for rank in ranks)
    scaled = ((image - np.float32(low)) / np.float32(max(high - low, 1e-6))).clip(0.0, 1.0)
    return scaled * positive, {"low": low, "high": high}


def normalize_by_zscore(
    image: FloatArray, mask: Mask | None, parameters: Mapping[str, Any]
) -> tuple[FloatArray, dict[str, Any]]:
    """Subtract the mean and divide by the deviation.

    Of the brain with zero outside, or of the whole crop without a mask.
    """
    # One deviation for the whole volume, not one a slice.
    values = image if mask is None else image[mask]
    deviation = float(values.std()) if values.size else 0.0
    if deviation <= 0:
        raise ImageError("the image has one value where it is to be normalised", code="brain-without-signal")
    mean = float(values.mean())
    scaled = (image - np.float32(mean)) / np.float32(deviation)
    return scaled if mask is None else scaled * mask, {
        "mean": mean,
        "deviation": deviation,
        "of": "crop" if mask is None else "brain",
    }


Scheme = Callable[[FloatArray, Mask | None, Mapping[str, Any]], tuple[FloatArray, dict[str, Any]]]

SCHEMES: Mapping[str, Scheme] = {
    "brain-median": normalize_by_brain_median,
    "percentile": normalize_by_percentiles,
    "z-score": normalize_by_zscore,
}
"""Name in the manifest to function; another convention (nnU-Net's) is one more row."""
