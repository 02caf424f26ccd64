"""Several bundles on one case: each answers in its own way on its own grid.

Their answers are brought onto one grid and made one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.geometry import Grid, same_grid
from pipeline.inference.voting import majority, mean, move_threshold, vote_share
from pipeline.journal import Journal
from pipeline.preprocess.resample import plan_mask_grid, sample_linear
from pipeline.records import FloatArray, NetworkPlan, Volume
from pipeline.segmenters.case import Answer, Case
from pipeline.segmenters.ensemble.spec import EnsembleSpec, choose_members

Segment = Callable[[Bundle, Case, NetworkPlan, Journal], Answer]


def segment_members(
    bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal, segment: Segment
) -> Answer:
    """Return the mean or the majority of the members' probabilities, or that of the one that is asked.

    The second map is the share of members that vote for lesion. Where one member answers alone, it is the
    member's own: one voice would always agree with itself.

    Each member answers at its own threshold. That, or what the table says in its place, is then moved onto
    the ensemble's: a member that cuts at 0.2 says as much with 0.2 as one that cuts at 0.5 says with 0.5.
    With the rule "vote" the result reaches the threshold exactly where more than half of the members do.

    Parameters
    ----------
    segment
        What answers for one member.
    """
    spec = bundle.family_spec
    if not isinstance(spec, EnsembleSpec):
        raise TypeError(f"{bundle.name} is no ensemble")
    # One grid for all members (ensemble's spacing, around the brain), on which their answers meet.
    grid = plan_mask_grid(case.brain.mask, bundle.input.spacing_mm, bundle.input.patch)
    channels = [channel for channel in bundle.channels if channel in case.images]
    common = bundle.output.threshold_for(channels)
    asked = choose_members(bundle, channels)
    answers = [segment(member.bundle, case, plan.members[member.number], journal) for member in asked]
    with journal.step("combine_members") as parameters:
        names = [f"{member.bundle.name}/{member.bundle.version}" for member in asked]
        parameters.update(rule=spec.rule, members=names)
        # The odds of each are moved so that its own threshold becomes the ensemble's.
        maps = [
            move_threshold(_bring(answer.probability, grid), member.threshold, common)
            for member, answer in zip(asked, answers, strict=True)
        ]
        if len(answers) == 1:
            agreement = answers[0].agreement and grid.fill(_bring(answers[0].agreement, grid))
            return Answer(grid.fill(maps[0]), agreement)
        # Either way one map, 0..1; the vote keeps the value that a majority of the members reach.
        probability = majority(np.stack(maps)) if spec.rule == "vote" else mean(maps)
    return Answer(grid.fill(probability), grid.fill(vote_share(maps, plan.threshold)))


def _bring(answer: Volume, grid: Grid) -> FloatArray:
    """Return a map of 0..1 at the voxel centres of the common grid."""
    if same_grid(answer, grid):
        return answer.array
    return sample_linear(answer, grid).clip(0.0, 1.0)
