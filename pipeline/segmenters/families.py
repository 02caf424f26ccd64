"""Which family of networks answers a case: the one table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.journal import Journal
from pipeline.records import NetworkPlan
from pipeline.segmenters.case import Answer, Case
from pipeline.segmenters.coverage import answer_uncovered
from pipeline.segmenters.ensemble import segment as ensemble
from pipeline.segmenters.nnunet import segment as nnunet
from pipeline.segmenters.patch3d import segment as patch3d
from pipeline.segmenters.patch3d.segment import Channels, prepare_case
from pipeline.segmenters.proposal3d import segment as proposal3d
from pipeline.segmenters.triplanar import segment as triplanar

Infer = Callable[[Bundle, Channels, NetworkPlan], tuple[Answer, dict[str, Any]]]
INFER: Mapping[str, Infer] = {"patch3d": patch3d.infer, "triplanar": triplanar.infer, "proposal3d": proposal3d.infer}
"""A manifest's `family` to what runs on channels that were prepared; an ensemble asks its members instead."""


def segment_case(bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal) -> Answer:
    """Return the lesion probability of one case on the network's own grid, and how far its passes agree.

    Raises
    ------
    PipelineError
        The image is empty, a network cannot be run or answers with NaN or infinite values.
    """
    if bundle.members:
        return ensemble.segment_members(bundle, case, plan, journal, segment_case)
    if bundle.nnunet is not None:
        # An imported nnU-Net resamples and normalises by its own rules, from the voxels as they were read.
        with journal.step("infer") as parameters:
            answer, used = nnunet.segment_case(bundle, case, plan)
            parameters.update(used)
        return answer
    channels = prepare_case(bundle, case, plan, journal)
    with journal.step("infer") as parameters:
        answer, used = INFER[bundle.family](bundle, channels, plan)
        parameters.update(used)
    return answer_uncovered(bundle, case, channels, answer, lambda rest: INFER[bundle.family](bundle, rest, plan)[0], journal)
