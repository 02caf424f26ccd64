"""Which family of networks answers a case: the one table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.journal import Journal
from pipeline.segmenters.case import Answer, Asked, Case
from pipeline.segmenters.coverage import answer_uncovered
from pipeline.segmenters.ensemble import segment as ensemble
from pipeline.segmenters.nnunet import segment as nnunet
from pipeline.segmenters.patch3d import segment as patch3d
from pipeline.segmenters.patch3d.segment import Channels, prepare_case
from pipeline.segmenters.proposal3d import segment as proposal3d
from pipeline.segmenters.triplanar import segment as triplanar

Infer = Callable[[Bundle, Channels, Asked], tuple[Answer, dict[str, Any]]]
INFER: Mapping[str, Infer] = {"patch3d": patch3d.infer, "triplanar": triplanar.infer, "proposal3d": proposal3d.infer}
"""A manifest's `family` to what runs on channels that were prepared; an ensemble asks its members instead."""


def segment_case(bundle: Bundle, case: Case, asked: Asked, journal: Journal) -> Answer:
    """Return the lesion probability of one case on the network's own grid, and how far its passes agree.

    Raises
    ------
    PipelineError
        The image is empty, a network cannot be run or answers with NaN or infinite values.
    """
    if bundle.members:
        return ensemble.segment_members(bundle, case, asked, journal, segment_case)
    if bundle.nnunet is not None:
        # An imported nnU-Net resamples and normalises by its own rules, from the voxels as they were read.
        with journal.step("infer") as parameters:
            answer, used = nnunet.segment_case(bundle, case, asked)
            parameters.update(used)
        return answer
    channels = prepare_case(bundle, case, asked, journal)
    with journal.step("infer") as parameters:
        answer, used = INFER[bundle.family](bundle, channels, asked)
        parameters.update(used)
    return answer_uncovered(bundle, case, channels, answer, lambda rest: INFER[bundle.family](bundle, rest, asked)[0], journal)
