"""Where an image does not reach, the network is asked again without it.

A channel is zero outside its image's field of view. Inside the brain that looks like a cavity filled with fluid, so what lies there is
answered from the images that do show it, as it would be had the other never been taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.bundle import Bundle
from pipeline.geometry import Grid
from pipeline.journal import Journal
from pipeline.preprocess.resample import IDENTITY, sample_linear
from pipeline.records import Finding
from pipeline.segmenters.case import Answer, Case
from pipeline.segmenters.patch3d import Channels

SMALLEST_SHARE = 0.001
"""Share of the brain outside an image below which it is the rounding of the edge, not a missing part."""


def find_covered(case: Case, grid: Grid, role: str) -> npt.NDArray[np.bool_]:
    """Return the voxels of `grid` (slice, row, column) that lie in the field of view of one image."""
    image = case.images[role]
    reach = sample_linear(image.with_array(np.ones(image.array.shape, np.float32)), grid, case.links.get(role, IDENTITY))
    return reach > 1.0 - 1e-3


def answer_uncovered(
    bundle: Bundle, case: Case, channels: Channels, answer: Answer, infer: Callable[[Channels], Answer], journal: Journal
) -> Answer:
    """Return `answer` with what lies outside an image's field of view taken from the network's answer without that image.

    A network that was not trained to do without the image keeps its answer; the finding says so.
    """
    reference = next(iter(case.images))
    brain = sample_linear(case.brain.soft, channels.grid) >= case.brain.threshold
    for role in [role for role in case.images if role != reference and role in bundle.channels]:
        missing = brain & ~find_covered(case, channels.grid, role)
        share = missing.sum() / max(brain.sum(), 1)
        if share < SMALLEST_SHARE:
            continue
        rest = [other for other in case.images if other != role]
        said = f"{100 * share:.1f} % of the brain lies outside the {role.upper()}"
        if not bundle.takes(rest):
            journal.findings.append(Finding("part-not-covered", "warning", f"{said}, and the network cannot do without it there."))
            continue
        with journal.step("infer_uncovered") as parameters:
            array = channels.array.copy()
            array[bundle.channels.index(role)] = 0.0
            without = infer(replace(channels, array=array))
            answer = _put_together(answer, without, missing)
            parameters.update(role=role, share=float(share))
        others = " and ".join(other.upper() for other in rest)
        journal.findings.append(Finding("part-not-covered", "warning", f"{said}; there the result rests on the {others} alone."))
    return answer


def _put_together(answer: Answer, without: Answer, missing: npt.NDArray[np.bool_]) -> Answer:
    probability = answer.probability.with_array(np.where(missing, without.probability.array, answer.probability.array))
    if answer.agreement is None or without.agreement is None:
        return replace(answer, probability=probability)
    agreement = answer.agreement.with_array(np.where(missing, without.agreement.array, answer.agreement.array))
    return Answer(probability, agreement)
