"""One image judged: what was measured of it, and the graded findings that follow.

Docs/quality-gates.md says where each limit is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Grid, Triple, apply_affine, as_shape, spacing_mm
from pipeline.preprocess.extract_brain import Brain, box_corners
from pipeline.preprocess.resample import plan_mask_grid, sample_gaussian_linear, sample_linear
from pipeline.quality.ghosting import measure_ghosting
from pipeline.quality.noise import measure_snr
from pipeline.quality.trained_range import Range, find_range_remarks, measure_quantiles, take_core
from pipeline.records import Finding, Volume

LOWEST_SNR = 5.0
LARGEST_GHOSTING = 0.015
USUAL_BRAIN_ML = (1000.0, 1900.0)
QUANTILE_STEP_MM = 2.0
"""So far apart are the voxels whose quantiles are taken."""


@dataclass(frozen=True)
class Quality:
    """What was measured of one image.

    Attributes
    ----------
    snr
        Brain's median over the noise.
    ghosting
        0..1; None where the air around the head cannot be judged.
    quantiles
        Of the brain without its rim over its median, on the network's spacing.
    """

    snr: float
    ghosting: float | None
    brain_ml: float
    quantiles: Mapping[str, float]


def measure_quality(image: Volume, brain: Brain, network_spacing_mm: Triple) -> Quality:
    """Return what is measured of an image in axial canonical order.

    `brain` is the brain in the same image.
    """
    box, inside = _find_brain(image, brain)
    # The voxels that the network sees, of fine ones a part: quantiles need no more.
    every = max(1, round(QUANTILE_STEP_MM / max(network_spacing_mm)))
    grid = plan_mask_grid(brain.mask, network_spacing_mm, (1, 1, 1))
    core = take_core(
        sample_linear(brain.soft, grid.thin(every)) >= brain.threshold, every * max(network_spacing_mm)
    )
    return Quality(
        measure_snr(image.array[box], inside[box]),
        measure_ghosting(image.array, inside, spacing_mm(image.affine)),
        brain.volume_ml,
        measure_quantiles(sample_gaussian_linear(image, grid, every=every), core),
    )


def _find_brain(image: Volume, brain: Brain) -> tuple[tuple[slice, ...], npt.NDArray[np.bool_]]:
    """Return the box of the image's voxels that the brain may reach, and which of all voxels it does."""
    inside = np.zeros(image.array.shape, bool)
    corners = box_corners(brain)
    if not len(corners):
        return (slice(0),) * 3, inside
    places = apply_affine(np.linalg.inv(image.affine).astype(np.float64), corners)
    low = np.floor(places.min(axis=0)).astype(int).clip(0, image.array.shape)
    high = (np.ceil(places.max(axis=0)).astype(int) + 1).clip(low, image.array.shape)
    box = tuple(slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
    affine = image.affine.copy()
    affine[:3, 3] = apply_affine(image.affine, low)
    grid = Grid(as_shape(tuple((high - low).tolist())), affine, image.frame_of_reference_uid)
    if all(grid.shape):
        inside[box] = sample_linear(brain.soft, grid) >= brain.threshold
    return box, inside


def find_quality_remarks(role: str, quality: Quality, trained: Mapping[str, Range]) -> list[Finding]:
    """Return a warning for each limit that an image breaks.

    `trained` is the network's range for this role, empty when not known.
    """
    remarks = find_range_remarks(role, quality.quantiles, trained)
    name = role.upper()
    if quality.snr < LOWEST_SNR:
        sentence = f"The {name} is noisy: small lesions may be missed."
        remarks.append(Finding("low-snr", "warning", sentence, f"{quality.snr:.1f}, at least {LOWEST_SNR:g}"))
    if quality.ghosting is not None and quality.ghosting > LARGEST_GHOSTING:
        sentence = f"The {name} shows ghosts beside the head: the patient may have moved."
        remarks.append(
            Finding(
                "motion-suspected",
                "warning",
                sentence,
                f"{100 * quality.ghosting:.1f} %, at most {100 * LARGEST_GHOSTING:g} %",
            )
        )
    low, high = USUAL_BRAIN_ML
    if not low <= quality.brain_ml <= high:
        sentence = (
            f"The brain found in the {name} has an unusual volume: the brain mask may be wrong, "
            "and the lesion load with it."
        )
        remarks.append(
            Finding(
                "brain-volume-unusual",
                "warning",
                sentence,
                f"{quality.brain_ml:.0f} ml, usual {low:.0f} to {high:.0f} ml",
            )
        )
    return remarks
