"""nnU-Net's intensity schemes, one channel at a time.

V1 and v2 differ in a small number added to, or bounding, the deviation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import BundleError
from pipeline.records import FloatArray
from pipeline.segmenters.nnunet.spec import NnUNetSpec

Mask = npt.NDArray[np.bool_]
_SMALLEST = np.float32(1e-8)


def apply_nnunet_scheme(spec: NnUNetSpec, channel: int, image: FloatArray, inside: Mask) -> FloatArray:
    """Return the image on the scale that the network was trained on.

    Parameters
    ----------
    inside
        Voxels of the non-zero region with its holes filled; used where the plans ask for it.

    Raises
    ------
    BundleError
        The scheme is not known.
    """
    scheme, masked = spec.schemes[channel], spec.masked[channel]
    if scheme == "zscore":
        return _zscore(image, inside if masked else None, spec.version)
    if scheme == "ct":
        facts = spec.intensity[channel]
        deviation = np.float32(facts.std) if spec.version == 1 else max(np.float32(facts.std), _SMALLEST)
        scaled: FloatArray = (
            image.clip(np.float32(facts.low), np.float32(facts.high)) - np.float32(facts.mean)
        ) / deviation
        # v1 blanks what lies outside when the plans ask for the mask; v2's CT scheme knows no mask.
        return scaled * inside if spec.version == 1 and masked else scaled
    if scheme == "none":
        return image
    if scheme == "rescale-0-1":
        moved = image - image.min()
        answer: FloatArray = moved / max(moved.max(), _SMALLEST)
        return answer
    if scheme == "rgb-0-1":
        return (image / np.float32(255)).astype(np.float32, copy=False)
    raise BundleError(f"nnU-Net normalisation {scheme!r} is not known", code="model-manifest-invalid")


def _zscore(image: FloatArray, inside: Mask | None, version: int) -> FloatArray:
    values = image if inside is None else image[inside]
    mean, deviation = values.mean(), values.std()
    # v1: std + 1e-8 and zeros outside; v2: at least 1e-8, and outside is left as it was (zero, as the box was
    # cropped to non-zero).
    divisor = deviation + _SMALLEST if version == 1 else max(deviation, _SMALLEST)
    if inside is None:
        standardised: FloatArray = (image - mean) / divisor
        return standardised
    answer = np.zeros_like(image) if version == 1 else image.copy()
    answer[inside] = (values - mean) / divisor
    return answer
