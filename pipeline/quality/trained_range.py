"""Whether an image looks like those that a network was trained on.

Spacing, and the spread of the brain's intensities.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.records import Array, Finding

QUANTILES = {"p10": 10.0, "p25": 25.0, "p75": 75.0, "p90": 90.0}
"""Name in the manifest to percentile of the brain, each over the brain's median.

Contrast between tissues, free of scale.
"""
RIM_MM = 4.0
"""Rim of the brain that is left out: there masks differ, not images."""
Range = tuple[float, float]


def take_core(brain: npt.NDArray[np.bool_], spacing: float) -> npt.NDArray[np.bool_]:
    """Return the brain without its rim, on a grid of about cubic voxels of `spacing` mm."""
    core: npt.NDArray[np.bool_] = ndimage.binary_erosion(brain, iterations=max(1, round(RIM_MM / spacing)))
    return core


def measure_quantiles(image: Array, brain: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the brain's quantiles over its median; empty when the median is not positive."""
    values = image[brain]
    median = float(np.median(values)) if values.size else 0.0
    if median <= 0:
        return {}
    return {
        name: float(value) / median
        for name, value in zip(QUANTILES, np.percentile(values, list(QUANTILES.values())), strict=True)
    }


def find_range_remarks(
    role: str, measured: Mapping[str, float], trained: Mapping[str, Range]
) -> list[Finding]:
    """Return a warning that names every statistic of one image outside what the network was trained on."""
    outside = [
        f"{name} {measured[name]:.2f} (trained {low:.2f} to {high:.2f})"
        for name, (low, high) in trained.items()
        if name in measured and not low <= measured[name] <= high
    ]
    if not outside:
        return []
    sentence = (
        f"The {role.upper()} does not look like the images that the network was trained on: "
        "it may miss or invent lesions."
    )
    return [Finding("outside-trained-range", "warning", sentence, f"{role}: {', '.join(outside)}")]
