"""One image judged: what was measured of it, and the graded findings that follow.

Docs/quality-gates.md says where each limit is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.geometry import Triple, grid_of, spacing_mm
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.resample import plan_mask_grid, sample_gaussian_linear, sample_linear
from pipeline.quality.ghosting import measure_ghosting
from pipeline.quality.noise import measure_snr
from pipeline.quality.trained_range import Range, find_range_remarks, measure_quantiles, take_core
from pipeline.records import Finding, Volume

LOWEST_SNR = 5.0
LARGEST_GHOSTING = 0.015
USUAL_BRAIN_ML = (1000.0, 1900.0)


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
    inside = sample_linear(brain.soft, grid_of(image)) >= brain.threshold
    grid = plan_mask_grid(brain.mask, network_spacing_mm, (1, 1, 1))
    resampled = sample_gaussian_linear(image, grid)
    return Quality(
        measure_snr(image.array, inside),
        measure_ghosting(image.array, inside, spacing_mm(image.affine)),
        brain.volume_ml,
        measure_quantiles(
            resampled, take_core(sample_linear(brain.soft, grid) >= brain.threshold, max(network_spacing_mm))
        ),
    )


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
