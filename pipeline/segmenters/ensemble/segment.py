"""Several bundles on one case: each answers in its own way on its own grid.

Their answers are brought onto one grid and made one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.inference.voting import majority, mean, move_threshold, vote_share
from pipeline.journal import Journal
from pipeline.preprocess.resample import plan_mask_grid, sample_linear
from pipeline.records import NetworkPlan
from pipeline.segmenters.case import Answer, Case
from pipeline.segmenters.ensemble.spec import EnsembleSpec

Segment = Callable[[Bundle, Case, NetworkPlan, Journal], Answer]


def segment_members(
    bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal, segment: Segment
) -> Answer:
    """Return the mean or the majority of the members' probabilities.

    The second map is the share of members that vote for lesion.

    Each member is asked at its own threshold, which is then moved onto the ensemble's: a member that cuts at
    0.2 says as much with 0.2 as one that cuts at 0.5 says with 0.5. With the rule "vote" the result reaches
    the threshold exactly where more than half of the members do; with "first" it is the answer of the first
    member. Members that were not trained for the case's images are left out.

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
    maps, asked = [], []
    fitting = [
        (member, member_plan)
        for member, member_plan in zip(bundle.members, plan.members, strict=True)
        if member.takes(channels)
    ]
    for member, member_plan in fitting[:1] if spec.rule == "first" else fitting:
        answer = segment(member, case, member_plan, journal)
        # The member's probability at the common voxel centres, and its odds moved so that its own threshold
        # becomes the ensemble's.
        on_grid = sample_linear(answer.probability, grid).clip(0.0, 1.0)
        asked.append(f"{member.name}/{member.version}")
        maps.append(move_threshold(on_grid, member_plan.threshold, common))
    with journal.step("combine_members") as parameters:
        parameters.update(rule=spec.rule, members=asked)
        # Either way one map, 0..1; the vote keeps the value that a majority of the members reach.
        probability = majority(np.stack(maps)) if spec.rule == "vote" else mean(maps)
    return Answer(grid.fill(probability), grid.fill(vote_share(maps, plan.threshold)))
