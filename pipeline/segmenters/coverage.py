"""Where an image does not reach, the network is asked again without it.

A channel is zero outside its image's field of view. Inside the brain that looks like a cavity filled with
fluid, so what lies there is answered from the images that do show it, as it would be had the other never been
taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import Bundle
from pipeline.geometry import Grid, apply_affine
from pipeline.journal import Journal
from pipeline.preprocess.extract_brain import box_corners
from pipeline.preprocess.resample import IDENTITY, find_inside, sample_linear
from pipeline.records import Finding, FloatArray
from pipeline.segmenters.case import Answer, Case, Channels

SMALLEST_SHARE = 0.001
"""Share of the brain outside an image below which it is the rounding of the edge, not a missing part."""

EDGE = 1e-3
"""Voxels from the edge of the field of view within which the rounding of the one way or the other decides."""


def find_covered(case: Case, grid: Grid, role: str) -> npt.NDArray[np.bool_]:
    """Return the voxels of `grid` (slice, row, column) that lie in the field of view of one image."""
    return find_inside(case.images[role], grid, case.links.get(role, IDENTITY))


@dataclass(frozen=True, eq=False)
class Uncovered:
    """The part of the brain (slice, row, column) that an image does not reach, its share.

    It names the images that do reach there.
    """

    role: str
    rest: tuple[str, ...]
    missing: npt.NDArray[np.bool_]
    share: float


def find_uncovered(bundle: Bundle, case: Case, grid: Grid) -> list[Uncovered]:
    """Return what is answered without an image because that does not reach there.

    It says so, too, where the network would be asked but cannot do without the image.
    """
    reference = next(iter(case.images))
    roles = [
        role
        for role in case.images
        if role != reference and role in bundle.channels and not _holds_brain(case, role)
    ]
    if not roles:
        return []
    # The brain on the network's grid: interpolated probability, cut where the extractor cuts it.
    brain = sample_linear(case.brain.soft, grid) >= case.brain.threshold
    uncovered = []
    for role in roles:
        missing = brain & ~find_covered(case, grid, role)
        # Share of the brain's voxels; a brain of no voxels has no missing part.
        share = float(missing.sum() / max(brain.sum(), 1))
        if share >= SMALLEST_SHARE:
            uncovered.append(
                Uncovered(
                    role,
                    tuple(other_role for other_role in case.images if other_role != role),
                    missing,
                    share,
                )
            )
    return uncovered


def _holds_brain(case: Case, role: str) -> bool:
    """Return whether an image's field of view holds the brain's box: then no voxel need be looked at."""
    image = case.images[role]
    to_index = np.linalg.inv(image.affine) @ case.links.get(role, IDENTITY)
    places = apply_affine(to_index, box_corners(case.brain))
    return bool(((places > -0.5 + EDGE) & (places < np.array(image.array.shape) - 0.5 - EDGE)).all())


def choose_peaks(bundle: Bundle, case: Case, grid: Grid) -> float | FloatArray:
    """Return the peak that a lesion must reach: that of the images which a voxel was answered from."""
    channels = [channel for channel in bundle.channels if channel in case.images]
    usual = bundle.output.peak_for(channels)
    uncovered_parts = (
        [
            uncovered_part
            for uncovered_part in find_uncovered(bundle, case, grid)
            if bundle.takes(uncovered_part.rest)
        ]
        if bundle.output.peaks
        else []
    )
    if not uncovered_parts:
        return usual
    # Everywhere the peak of all images; where one does not reach, the peak of those that are left.
    peaks = np.full(grid.shape, usual, np.float32)
    for uncovered_part in uncovered_parts:
        peaks[uncovered_part.missing] = bundle.output.peak_for(
            [channel for channel in bundle.channels if channel in uncovered_part.rest]
        )
    return peaks


def answer_uncovered(
    bundle: Bundle,
    case: Case,
    channels: Channels,
    answer: Answer,
    infer: Callable[[Channels], Answer],
    journal: Journal,
) -> Answer:
    """Return `answer` completed where an image's field of view ends.

    There the network's answer without that image stands in.

    A network that was not trained to do without the image keeps its answer; the finding says so.
    """
    for uncovered_part in find_uncovered(bundle, case, channels.grid):
        outside_sentence = (
            f"{100 * uncovered_part.share:.1f} % of the brain lies outside the {uncovered_part.role.upper()}"
        )
        if not bundle.takes(uncovered_part.rest):
            journal.findings.append(
                Finding(
                    "part-not-covered",
                    "warning",
                    f"{outside_sentence}, and the network cannot do without it there.",
                )
            )
            continue
        with journal.step("infer_uncovered") as parameters:
            # What the network was trained on for an absent image is a channel of zeros; the other channels
            # stay as they are.
            array = channels.array.copy()
            array[bundle.channels.index(uncovered_part.role)] = 0.0
            answer_without = infer(replace(channels, array=array))
            answer = _put_together(answer, answer_without, uncovered_part.missing)
            parameters.update(role=uncovered_part.role, share=uncovered_part.share)
        other_roles = " and ".join(other_role.upper() for other_role in uncovered_part.rest)
        journal.findings.append(
            Finding(
                "part-not-covered",
                "warning",
                f"{outside_sentence}; there the result rests on the {other_roles} alone.",
            )
        )
    return answer


def _put_together(answer: Answer, answer_without: Answer, missing: npt.NDArray[np.bool_]) -> Answer:
    # Voxel by voxel: the answer without the image where it does not reach, the answer with all images
    # elsewhere.
    probability = answer.probability.with_array(
        np.where(missing, answer_without.probability.array, answer.probability.array)
    )
    if answer.agreement is None or answer_without.agreement is None:
        return replace(answer, probability=probability)
    agreement = answer.agreement.with_array(
        np.where(missing, answer_without.agreement.array, answer.agreement.array)
    )
    return Answer(probability, agreement)
