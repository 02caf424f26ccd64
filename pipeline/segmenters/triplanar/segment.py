"""One 2D network for each plane.

The answer is a majority of two of the three or their mean (the method of arXiv 2511.07281, of which only
the abstract was at hand).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import Bundle
from pipeline.inference.session import Network
from pipeline.inference.voting import majority, mean, move_threshold, vote_share
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
        answer, parameters = infer_plane(bundle, channels, plan, plane, spec.stride)
        maps.append(move_threshold(answer.probability.array, spec.thresholds[plane], bundle.output.threshold))
    fill = channels.grid.fill
    probability = majority(np.stack(maps)) if spec.rule == "vote" else mean(maps)
    parameters |= {"planes": list(PLANE_GRAPHS), "rule": spec.rule}
    return Answer(fill(probability), fill(vote_share(maps, plan.threshold))), parameters


def infer_plane(
    bundle: Bundle, channels: Channels, plan: NetworkPlan, plane: str, stride: int = 1
) -> tuple[Answer, dict[str, Any]]:
    """Return what one plane's network says, before its threshold is moved.

    With a `stride` of 2 every other slice is asked about, as in `in_slices`.

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
    crop = Crop(spec.multiple, spec.margin) if spec.multiple and skip else None
    return infer_graph(
        bundle,
        channels,
        plan,
        name,
        lambda network: in_slices(network, axis, spec.slices, skip_empty=skip, crop=crop, stride=stride),
    )


@dataclass(frozen=True)
class Crop:
    """The part of slices that a network is shown: what holds the image, and `margin` pixels around it.

    Both of its sizes are multiples of `multiple`, or the whole slice's.
    """

    multiple: int
    margin: int

    def __call__(self, slices: FloatArray) -> tuple[slice, slice]:
        """Return rows and columns of slices of shape (channel, slice, row, column), not all of them empty."""
        occupied: npt.NDArray[np.bool_] = np.any(slices, axis=(0, 1))
        rows: npt.NDArray[np.bool_] = np.any(occupied, axis=1)
        columns: npt.NDArray[np.bool_] = np.any(occupied, axis=0)
        return self._interval(rows), self._interval(columns)

    def _interval(self, occupied: npt.NDArray[np.bool_]) -> slice:
        first, last = np.flatnonzero(occupied)[[0, -1]]
        wanted = last + 1 - first + 2 * self.margin
        # Up to the next multiple; a slice that has no room for it is shown as a whole.
        length = min(-(-wanted // self.multiple) * self.multiple, occupied.size)
        # The image in the middle, as far as the rim of the slice allows.
        start = min(max(0, (first + last + 1 - length) // 2), occupied.size - length)
        return slice(int(start), int(start + length))


def in_slices(
    network: Network, axis: int, count: int, *, skip_empty: bool, crop: Crop | None = None, stride: int = 1
) -> Network:
    """Return a function of a whole patch out of one of `count` slices along `axis`.

    A patch without an image holds no lesion, and neither does what `crop` leaves out. Of every `stride`
    slices one is asked about; a slice between two of them is their mean, weighted by distance, and those
    behind the last one are as the last one.
    """

    def run(patch: FloatArray) -> FloatArray:
        slices = np.moveaxis(patch, axis + 1, 1)
        shown = slices[:, ::stride]
        answer = np.zeros((1, *shown.shape[1:]), np.float32)
        for start in range(0, shown.shape[1], count):
            group = shown[:, start : start + count]
            if skip_empty and not group.any():
                continue
            rows, columns = crop(group) if crop else (slice(None), slice(None))
            missing = count - group.shape[1]
            part = group[:, :, rows, columns]
            filled = np.pad(part, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else part
            answer[:, start : start + count, rows, columns] = np.moveaxis(
                network(np.moveaxis(filled, 1, axis + 1)), axis + 1, 1
            )[:, : group.shape[1]]
        return np.moveaxis(_between(answer, slices.shape[1], stride), 1, axis + 1)

    return run


def _between(answer: FloatArray, count: int, stride: int) -> FloatArray:
    """Return (1, count, row, column) of answers for every `stride`-th of `count` slices."""
    if stride == 1:
        return answer
    filled = np.empty((1, count, *answer.shape[2:]), np.float32)
    filled[:, ::stride] = answer
    last = answer.shape[1] - 1
    for offset in range(1, stride):
        between = filled[:, offset::stride]
        numbers = np.arange(between.shape[1])
        after = np.minimum(numbers + 1, last)
        share = np.float32(offset / stride)
        between[:] = (1 - share) * answer[:, numbers] + share * answer[:, after]
    return filled
