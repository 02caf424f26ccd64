"""One 2D network for each plane, and a majority of two of the three or their mean (the method of arXiv 2511.07281, of which only the abstract was at hand)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.inference.voting import majority, move_threshold, vote_share
from pipeline.records import FloatArray, NetworkPlan
from pipeline.segmenters.case import Answer, Channels
from pipeline.segmenters.patch3d.segment import infer_graph
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS, TriplanarSpec


def infer(bundle: Bundle, channels: Channels, plan: NetworkPlan) -> tuple[Answer, dict[str, Any]]:
    """Return the middle one of the planes' probabilities or their mean, and the share of planes that vote for lesion.

    The middle probability reaches the threshold exactly where at least two planes do, so thresholding it is the majority vote.

    Raises
    ------
    BundleError
        A graph is not as the manifest says, or answers with NaN or infinite values.
    """
    spec = bundle.family_spec
    if not isinstance(spec, TriplanarSpec):
        raise TypeError(f"{bundle.name} is no triplanar bundle")
    maps: list[FloatArray] = []
    parameters: dict[str, Any] = {}
    for plane, name in PLANE_GRAPHS.items():
        answer, parameters = infer_graph(bundle, channels, plan, name)
        maps.append(move_threshold(answer.probability.array, spec.thresholds[plane], bundle.output.threshold))
    stacked, fill = np.stack(maps), channels.grid.fill
    probability = majority(stacked) if spec.rule == "vote" else stacked.mean(axis=0, dtype=np.float32)
    parameters |= {"planes": list(PLANE_GRAPHS), "rule": spec.rule}
    return Answer(fill(probability), fill(vote_share(stacked, plan.threshold))), parameters
