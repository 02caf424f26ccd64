"""An imported nnU-Net on one case.

It goes from channels as they were read to the lesion probability on the same voxels.

Everything after the network is linear until the last step, so what is not asked for is left out early: of two
classes' logits only their difference is kept, of softmax maps only the lesion's sum. That halves memory and
time and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import Bundle
from pipeline.geometry import Affine, Grid, Shape, Triple, same_grid, spacing_mm
from pipeline.inference.passes import average_passes
from pipeline.inference.session import Folds, Network
from pipeline.inference.sliding_window import apply_tiles, plan_tiles
from pipeline.journal import Journal
from pipeline.preprocess.resample import IDENTITY, sample_linear
from pipeline.records import FloatArray, NetworkPlan, Volume
from pipeline.segmenters.case import Answer, Case
from pipeline.segmenters.nnunet.case_plan import CasePlan, apply_case, plan_case, undo_case
from pipeline.segmenters.nnunet.spec import REFERENCE, NnUNetSpec, spec_of

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """The network's own grid and how tiles overlap on it; axes are transposed."""

    spacing_mm: Triple
    patch: Shape
    step: float
    gaussian: bool


def window_of(bundle: Bundle) -> Window:
    """Return what a manifest says about the network's grid and tiles."""
    return Window(bundle.input.spacing_mm, bundle.input.patch, bundle.window.step, bundle.window.gaussian)


def segment_case(bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal) -> Answer:
    """Return the answer on the voxels that the network works from.

    It resamples and normalises by its own rules, from the voxels as they were read. What lies outside the
    brain is blanked for a network that was trained on extracted brains.

    Raises
    ------
    PipelineError
        The image is empty, the network cannot be run, or it answers with NaN or infinite values.
    """
    spec = spec_of(bundle)
    with journal.step("infer") as parameters:
        # Every channel on the voxels of the image that the network was trained to work from, in the
        # reference's mm.
        grid = _working_grid(spec, case)
        links = [case.links.get(channel, IDENTITY) for channel in bundle.channels]
        array = np.stack(
            [
                _on_grid(case.images[name], grid, link)
                for name, link in zip(bundle.channels, links, strict=True)
            ]
        )
        if bundle.input.head == "brain-extracted":
            array = array * (sample_linear(case.brain.soft, grid) >= case.brain.threshold)
        # Our axes grow to head, posterior and left (LPS from the last to the first); those of the training
        # images may run the other way.
        turned = tuple(
            axis
            for axis, letter, ours in zip((3, 2, 1), spec.orientation, "LPS", strict=True)
            if letter != ours
        )
        networks = Folds(bundle, plan.threads, plan.provider)
        image = np.flip(array, turned)
        prediction = predict_votes(
            networks, spec, window_of(bundle), image, spacing_mm(grid.affine), plan.threshold
        )
        parameters.update(_describe_run(spec, prediction, plan), folds=len(networks))

    def restore(maps: FloatArray) -> Volume:
        # The maps have no channel axis, so each axis is one less.
        return grid.fill(np.ascontiguousarray(np.flip(maps, tuple(axis - 1 for axis in turned))))

    return Answer(
        restore(prediction.probability), None if prediction.votes is None else restore(prediction.votes)
    )


def _describe_run(spec: NnUNetSpec, prediction: Prediction, plan: NetworkPlan) -> dict[str, Any]:
    return {
        "conventions": f"nnU-Net v{spec.version}",
        "mirror_axes": list(spec.mirror_axes),
        "grid": spec.grid,
        "box": [list(ends) for ends in prediction.plan.box],
        "resampled": list(prediction.plan.resampled),
        "threads": plan.threads,
        "provider": plan.provider,
    }


def _working_grid(spec: NnUNetSpec, case: Case) -> Grid:
    """Return the grid of the image that the network works from, in the reference's mm."""
    if spec.grid == REFERENCE or spec.grid not in case.images:
        return case.reference
    image = case.images[spec.grid]
    shape = (image.array.shape[0], image.array.shape[1], image.array.shape[2])
    return Grid(
        shape,
        np.linalg.inv(case.links.get(spec.grid, IDENTITY)) @ image.affine,
        case.reference.frame_of_reference_uid,
    )


def _on_grid(image: Volume, grid: Grid, link: Affine) -> FloatArray:
    moved = Volume(image.array, np.linalg.inv(link) @ image.affine, grid.frame_of_reference_uid)
    if same_grid(moved, grid):
        return image.array.astype(np.float32, copy=False)
    return sample_linear(image, grid, link)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Maps on the voxels as they were given, (slice, row, column).

    Probability, share of passes that vote for lesion (None: one pass).
    """

    probability: FloatArray
    votes: FloatArray | None
    plan: CasePlan


def predict_array(
    networks: Sequence[Network], spec: NnUNetSpec, window: Window, array: FloatArray, spacing: Triple
) -> tuple[FloatArray, CasePlan]:
    """Return the lesion probability alone, and how the case was laid out; see `predict_votes`."""
    votes = predict_votes(networks, spec, window, array, spacing, None)
    return votes.probability, votes.plan


def predict_votes(
    networks: Sequence[Network],
    spec: NnUNetSpec,
    window: Window,
    array: FloatArray,
    spacing: Triple,
    threshold: float | None,
) -> Prediction:
    """Return the lesion probability, float32 (slice, row, column), and the votes of folds and flips.

    The last value says how the case was laid out.

    Parameters
    ----------
    networks
        One for each fold, each asked for when the one before has answered.
    array, spacing
        (channel, slice, row, column) in the training images' orientation, and its voxel size in mm.
    threshold
        Probability at or above which a pass votes for lesion; None: nobody asks.

    Raises
    ------
    PipelineError
        The image is empty, or the network answers with NaN or infinite values.
    """
    plan, inside = plan_case(spec, window.spacing_mm, array, spacing)
    image = apply_case(spec, plan, inside, array)
    vote = (
        None
        if threshold is None or (len(networks) == 1 and not spec.mirror_axes)
        else _voter(spec, threshold)
    )
    voting = vote is not None
    total: FloatArray | None = None
    for number in range(len(networks)):
        predict = average_passes([networks[number]], spec.mirror_axes, _reduction(spec), vote)
        answer = _maps(predict, image, spec, window)
        total = answer if total is None else total + answer
        # Its memory must be free before the next fold is opened.
        del predict
    if total is None:
        raise ValueError("there is no network to ask")
    maps = total / np.float32(len(networks))
    outside = np.full(len(maps), -np.inf if spec.version == 2 else 0.0, np.float32)
    if len(maps) - voting > 1:
        outside[0] = 0.0
    if voting:
        outside[-1] = 0.0
    maps = undo_case(spec, plan, maps, outside)
    votes = maps[-1].clip(0.0, 1.0) if voting else None
    maps = maps[:-1] if voting else maps
    probability = _lesion_probability(spec, maps) if spec.version == 2 else maps[0]
    return Prediction(probability.clip(0.0, 1.0), votes, plan)


def _voter(spec: NnUNetSpec, threshold: float) -> Callable[[FloatArray], Mask]:
    return lambda maps: (
        (maps if spec.version == 1 else _lesion_probability(spec, maps)[np.newaxis]) >= threshold
    )


def _maps(predict: Network, image: FloatArray, spec: NnUNetSpec, window: Window) -> FloatArray:
    """Return one network's maps over the whole image; a 2D network answers slice by slice."""

    def tile(tile_values: FloatArray) -> FloatArray:
        return apply_tiles(
            predict,
            tile_values,
            plan_tiles(tile_values.shape[1:], window.patch, window.step, gaussian=window.gaussian),
        )

    return (
        np.concatenate([tile(image[:, k : k + 1]) for k in range(image.shape[1])], axis=1)
        if spec.planar
        else tile(image)
    )


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
