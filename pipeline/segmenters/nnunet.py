"""An imported nnU-Net on one case: from channels as they were read to the lesion probability on the same voxels.

Everything after the network is linear until the last step, so what is not asked for is left out early: of two classes' logits only their
difference is kept, of softmax maps only the lesion's sum. That halves memory and time and changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.geometry import Shape, Triple
from pipeline.inference.session import Network
from pipeline.inference.sliding_window import apply_tiles, plan_tiles
from pipeline.nnunet_manifest import NnUNetSpec
from pipeline.preprocess.nnunet_case import CasePlan, apply_case, plan_case, undo_case
from pipeline.records import FloatArray


@dataclass(frozen=True)
class Window:
    """The network's own grid and how tiles overlap on it; axes are transposed."""

    spacing_mm: Triple
    patch: Shape
    step: float
    gaussian: bool


def predict_array(
    networks: Sequence[Network], spec: NnUNetSpec, window: Window, array: FloatArray, spacing: Triple
) -> tuple[FloatArray, CasePlan]:
    """Return the lesion probability, float32 (slice, row, column), and how the case was laid out.

    Parameters
    ----------
    networks
        One for each fold.
    array, spacing
        (channel, slice, row, column) in the training images' orientation, and its voxel size in mm.

    Raises
    ------
    PipelineError
        The image is empty, or the network answers with NaN or infinite values.
    """
    plan, inside = plan_case(spec, window.spacing_mm, array, spacing)
    image = apply_case(spec, plan, inside, array)
    predict = _averaged(networks, spec)
    if spec.planar:
        slices = [_tile(predict, image[:, k : k + 1], window) for k in range(image.shape[1])]
        maps = np.concatenate(slices, axis=1)
    else:
        maps = _tile(predict, image, window)
    outside = np.full(len(maps), -np.inf if spec.version == 2 else 0.0, np.float32)
    if len(maps) > 1:
        outside[0] = 0.0
    maps = undo_case(spec, plan, maps, outside)
    return (_lesion_probability(spec, maps) if spec.version == 2 else maps[0]).clip(0.0, 1.0), plan


def _tile(predict: Network, image: FloatArray, window: Window) -> FloatArray:
    return apply_tiles(predict, image, plan_tiles(image.shape[1:], window.patch, window.step, gaussian=window.gaussian))


def _averaged(networks: Sequence[Network], spec: NnUNetSpec) -> Network:
    """Return the mean over folds and flips as one function of a patch."""
    flips = [axes for count in range(len(spec.mirror_axes) + 1) for axes in itertools.combinations(spec.mirror_axes, count)]
    keep = _reduction(spec)

    def predict(patch: FloatArray) -> FloatArray:
        total: FloatArray | None = None
        for axes in flips:
            turned = tuple(1 + axis for axis in axes)
            seen = np.flip(patch, turned)
            for network in networks:
                answer = np.flip(keep(network(seen)), turned)
                total = answer.copy() if total is None else np.add(total, answer, out=total)
        if total is None:
            raise ValueError("there is no network to ask")
        return total / np.float32(len(flips) * len(networks))

    return predict


def _reduction(spec: NnUNetSpec) -> Callable[[FloatArray], FloatArray]:
    if spec.version == 1:
        return lambda logits: _lesion_probability(spec, logits)[np.newaxis]
    if spec.classes == 2:
        return lambda logits: logits[1:] - logits[:1]
    return lambda logits: logits


def _lesion_probability(spec: NnUNetSpec, maps: FloatArray) -> FloatArray:
    """Return the softmax of the lesion classes, summed; one map is the difference of two logits."""
    if len(maps) == 2:
        maps = maps[1:] - maps[:1]
    if len(maps) == 1:
        answer: FloatArray = 0.5 + 0.5 * np.tanh(0.5 * maps[0])
        return answer
    powers = np.exp(maps - maps.max(axis=0))
    summed: FloatArray = powers[list(spec.lesion_classes)].sum(axis=0) / powers.sum(axis=0)
    return summed
