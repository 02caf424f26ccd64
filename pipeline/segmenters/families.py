"""Which family of networks answers a case: the one table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.bundle import Bundle
from pipeline.journal import Journal
from pipeline.segmenters import nnunet, patch3d
from pipeline.segmenters.case import Answer, Asked, Case

Family = Callable[[Bundle, Case, Asked, Journal], Answer]
FAMILIES: Mapping[str, Family] = {"patch3d": patch3d.segment_case}
"""A manifest's `family` to what segments with it."""


def segment_case(bundle: Bundle, case: Case, asked: Asked, journal: Journal) -> Answer:
    """Return the lesion probability of one case on the network's own grid, and how far its passes agree.

    Raises
    ------
    PipelineError
        The image is empty, a network cannot be run or answers with NaN or infinite values.
    """
    if bundle.nnunet is not None:
        # An imported nnU-Net resamples and normalises by its own rules, from the voxels as they were read.
        with journal.step("infer") as parameters:
            answer, used = nnunet.segment_case(bundle, case, asked)
            parameters.update(used)
        return answer
    return FAMILIES[bundle.family](bundle, case, asked, journal)
