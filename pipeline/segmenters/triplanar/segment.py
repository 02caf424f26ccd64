"""One 2D network for each plane.

The answer is a majority of two of the three or their mean (the method of arXiv 2511.07281, of which only
the abstract was at hand).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.inference.session import Network
from pipeline.inference.voting import majority, move_threshold, vote_share
from pipeline.records import FloatArray, NetworkPlan
from pipeline.segmenters.case import Answer, Channels
from pipeline.segmenters.patch3d.segment import infer_graph
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS, TriplanarSpec


def infer(bundle: Bundle, channels: Channels, plan: NetworkPlan) -> tuple[Answer, dict[str, Any]]:
    """Return the middle one of the planes' probabilities or their mean.

    The second map is the share of planes that vote for lesion.

    The middle probability reaches the threshold exactly where at least two planes do, so thresholding it is
    the majority vote.

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
    for plane in PLANE_GRAPHS:
        answer, parameters = infer_plane(bundle, channels, plan, plane)
        maps.append(move_threshold(answer.probability.array, spec.thresholds[plane], bundle.output.threshold))
    stacked, fill = np.stack(maps), channels.grid.fill
    probability = majority(stacked) if spec.rule == "vote" else stacked.mean(axis=0, dtype=np.float32)
    parameters |= {"planes": list(PLANE_GRAPHS), "rule": spec.rule}
    return Answer(fill(probability), fill(vote_share(stacked, plan.threshold))), parameters


def infer_plane(
    bundle: Bundle, channels: Channels, plan: NetworkPlan, plane: str
) -> tuple[Answer, dict[str, Any]]:
    """Return what one plane's network says, before its threshold is moved.

    Raises
    ------
    BundleError
        The graph is not as the manifest says, or answers with NaN or infinite values.
    """
    spec, name = bundle.family_spec, PLANE_GRAPHS[plane]
    if not isinstance(spec, TriplanarSpec):
        raise TypeError(f"{bundle.name} is no triplanar bundle")
    if not spec.slices:
        return infer_graph(bundle, channels, plan, name)
    axis, skip = list(PLANE_GRAPHS).index(plane), bundle.output.activation == "in-graph"
    return infer_graph(
        bundle, channels, plan, name, lambda network: in_slices(network, axis, spec.slices, skip_empty=skip)
    )


def in_slices(network: Network, axis: int, count: int, *, skip_empty: bool) -> Network:
    """Return a function of a whole patch out of one of `count` slices along `axis`.

    A patch without an image holds no lesion.
    """

    def run(patch: FloatArray) -> FloatArray:
        stacked = np.moveaxis(patch, axis + 1, 1)
        answer = np.zeros((1, *stacked.shape[1:]), np.float32)
        for start in range(0, stacked.shape[1], count):
            part = stacked[:, start : start + count]
            if skip_empty and not part.any():
                continue
            missing = count - part.shape[1]
            filled = np.pad(part, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else part
            answer[:, start : start + count] = np.moveaxis(
                network(np.moveaxis(filled, 1, axis + 1)), axis + 1, 1
            )[:, : part.shape[1]]
        return np.moveaxis(answer, 1, axis + 1)

    return run
