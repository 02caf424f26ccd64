"""What a shipped bundle answers on single real slices.

The manifest's own resampling and normalisation, the shipped graphs, the manifest's cuts.

A slice is answered by its own plane's network of a triplanar bundle. A 3D network sees it as a slab of
`SLAB_VOXELS` equal slices in zeros; an ensemble's members are asked one by one and combined as the ensemble
says. Bias correction is left out: one slice does not hold a bias field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.bundles.bundle import Bundle
from pipeline.geometry import Grid, axial_affine
from pipeline.inference.voting import majority, move_threshold
from pipeline.plan import plan_network
from pipeline.postprocess.components import apply_components, apply_peak
from pipeline.preprocess.resample import sample_linear
from pipeline.records import NetworkPlan, Volume
from pipeline.segmenters.case import Channels
from pipeline.segmenters.ensemble.spec import EnsembleSpec, choose_members
from pipeline.segmenters.families import infer_channels
from pipeline.segmenters.patch3d.segment import normalise_channels, resample_channels
from pipeline.segmenters.triplanar.segment import infer_plane
from pipeline.segmenters.triplanar.spec import PLANES, TriplanarSpec
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

ROLES = ("flair",)
SLAB_VOXELS = 3
EXTRUDED = 15
"""How many equal slices of 1 mm stand for one slice while it is resampled."""


def answer_slices(bundle: Bundle, slices: Sequence[RealSlice], threads: int = 1) -> list[Float]:
    """Return the lesion probability of each slice, float32 (row, column) at 1 mm, before any threshold.

    Raises
    ------
    TrainingProblem
        The bundle does not take a FLAIR alone.
    """
    if not bundle.takes(ROLES):
        raise TrainingProblem(
            f"{bundle.name}/{bundle.version} does not take a FLAIR alone, and the slices have no other image"
        )
    return _answer(bundle, plan_network(bundle, ROLES, threads=threads), slices)


def _answer(bundle: Bundle, plan: NetworkPlan, slices: Sequence[RealSlice]) -> list[Float]:
    if isinstance(bundle.family_spec, EnsembleSpec):
        common = bundle.output.threshold_for(ROLES)
        answers = [
            [
                move_threshold(probability, member.threshold, common)
                for probability in _answer(member.bundle, plan.members[member.number], slices)
            ]
            for member in choose_members(bundle, ROLES)
        ]
        combine = majority if bundle.family_spec.rule == "vote" else _mean
        return [combine(np.stack(maps)) for maps in zip(*answers, strict=True)]
    prepared = prepare_slices(bundle, slices)
    if isinstance(bundle.family_spec, TriplanarSpec):
        return _answer_planes(bundle, plan, slices, prepared)
    return [_answer_slab(bundle, plan, item, image) for item, image in zip(slices, prepared, strict=True)]


def _mean(maps: Float) -> Float:
    mean: Float = maps.mean(axis=0, dtype=np.float32)
    return mean


def prepare_slices(bundle: Bundle, slices: Sequence[RealSlice]) -> list[Float]:
    """Return (channel, row, column) of each slice on the bundle's grid of its plane.

    It is normalised over all slices of the same person.
    """
    people: dict[int, list[int]] = {}
    for number, item in enumerate(slices):
        people.setdefault(item.subject, []).append(number)
    prepared: dict[int, Float] = {}
    for numbers in people.values():
        resampled = [_resample(bundle, slices[number]) for number in numbers]
        prepared |= dict(zip(numbers, _normalise(bundle, resampled), strict=True))
    return [prepared[number] for number in range(len(slices))]


def _resample(bundle: Bundle, item: RealSlice) -> tuple[Float, Mask]:
    """Return (channel, row, column) and the brain on the middle slice of the bundle's grid."""
    volume, grid = _volume_of(item, item.image), _grid_of(bundle, item.plane)
    axis = PLANES.index(item.plane)
    array = resample_channels(bundle, {"flair": volume}, grid, {}).array
    brain = (
        sample_linear(_volume_of(item, ndimage.binary_fill_holes(item.image > 0).astype(np.float32)), grid)
        >= 0.5
    )
    middle = grid.shape[axis] // 2
    return np.moveaxis(array, axis + 1, 0)[middle], np.moveaxis(brain, axis, 0)[middle]


def _volume_of(item: RealSlice, values: Float) -> Volume:
    axis = PLANES.index(item.plane)
    array = np.repeat(np.expand_dims(values, axis), EXTRUDED, axis=axis)
    return Volume(array, axial_affine(array.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), "slice")


def _grid_of(bundle: Bundle, plane: str) -> Grid:
    """Return the patch of the bundle, three slices thick along the plane's axis, centred on the slice."""
    shape = list(bundle.input.patch)
    shape[PLANES.index(plane)] = SLAB_VOXELS
    whole = (shape[0], shape[1], shape[2])
    return Grid(whole, axial_affine(whole, bundle.input.spacing_mm, (0.0, 0.0, 0.0)), "slice")


def _normalise(bundle: Bundle, resampled: Sequence[tuple[Float, Mask]]) -> list[Float]:
    """Scale the slices of one person together.

    The manifest asks for the brain's statistics, and a single slice has only its own.
    """
    rows, columns = (max(brain.shape[axis] for _, brain in resampled) for axis in range(2))
    pads = [((0, rows - brain.shape[0]), (0, columns - brain.shape[1])) for _, brain in resampled]
    stacked = np.stack(
        [np.pad(image, ((0, 0), *pad)) for (image, _), pad in zip(resampled, pads, strict=True)], axis=1
    )
    mask = np.stack([np.pad(brain, pad) for (_, brain), pad in zip(resampled, pads, strict=True)])
    grid = Grid((len(resampled), rows, columns), np.eye(4), "slice")
    scaled = normalise_channels(bundle, Channels(stacked, grid), mask).array
    return [
        scaled[:, number, : brain.shape[0], : brain.shape[1]] for number, (_, brain) in enumerate(resampled)
    ]


def _answer_planes(
    bundle: Bundle, plan: NetworkPlan, slices: Sequence[RealSlice], prepared: Sequence[Float]
) -> list[Float]:
    """Run each plane's graph on volumes whose slices are different people's.

    A 2D network does not look from one to the next.
    """
    spec = bundle.family_spec
    assert isinstance(spec, TriplanarSpec)
    answers: dict[int, Float] = {}
    for axis, plane in enumerate(PLANES):
        numbers = [number for number, item in enumerate(slices) if item.plane == plane]
        depth = bundle.input.patch[axis]
        for start in range(0, len(numbers), depth):
            batch = numbers[start : start + depth]
            array = np.zeros((len(bundle.channels), *bundle.input.patch), np.float32)
            view = np.moveaxis(array, axis + 1, 0)
            for position, number in enumerate(batch):
                view[position] = prepared[number]
            answer = infer_plane(bundle, _channels(bundle, array), plan, plane)[0].probability.array
            for position, number in enumerate(batch):
                found = move_threshold(
                    answer.take(position, axis=axis), spec.thresholds[plane], bundle.output.threshold
                )
                answers[number] = _to_slice(bundle, slices[number], found)
    return [answers[number] for number in range(len(slices))]


def _answer_slab(bundle: Bundle, plan: NetworkPlan, item: RealSlice, image: Float) -> Float:
    axis = PLANES.index(item.plane)
    array = np.zeros((len(bundle.channels), *bundle.input.patch), np.float32)
    middle = bundle.input.patch[axis] // 2
    view = np.moveaxis(array, axis + 1, 0)
    view[middle - SLAB_VOXELS // 2 : middle + SLAB_VOXELS // 2 + 1] = image
    answer = infer_channels(bundle, _channels(bundle, array), plan)[0].probability.array
    return _to_slice(bundle, item, answer.take(middle, axis=axis))


def _channels(bundle: Bundle, array: Float) -> Channels:
    return Channels(
        array,
        Grid(
            bundle.input.patch,
            axial_affine(bundle.input.patch, bundle.input.spacing_mm, (0.0, 0.0, 0.0)),
            "slice",
        ),
    )


def _to_slice(bundle: Bundle, item: RealSlice, found: Float) -> Float:
    """Bring the answer on the bundle's grid (row, column) back onto the slice's own pixels."""
    grid, axis = _grid_of(bundle, item.plane), PLANES.index(item.plane)
    slab = np.repeat(np.expand_dims(found, axis), SLAB_VOXELS, axis=axis)
    target = _volume_of(item, item.image)
    back = sample_linear(grid.fill(slab), Grid(target.array.shape, target.affine, "slice"))
    return np.clip(back.take(EXTRUDED // 2, axis=axis), 0.0, 1.0) * (item.image > 0)


def cut_slice(bundle: Bundle, probability: Float, cuts: Mapping[str, float] | None = None) -> Mask:
    """Return the lesion of one slice.

    Threshold, peak and smallest piece as the manifest has them for a FLAIR alone.

    The smallest volume V becomes the smallest area V^(2/3), its section through the middle. `cuts` overrides
    "threshold", "peak", "minimum_volume_mm3".
    """
    output = bundle.output
    own = {
        "threshold": output.threshold_for(ROLES),
        "peak": output.peak_for(ROLES),
        "minimum_volume_mm3": output.minimum_volume_mm3,
    }
    chosen = own | dict(cuts or {})
    volume = probability[None]
    sure, _ = apply_peak(volume, chosen["threshold"], chosen["peak"], output.connectivity)
    mask = (sure >= chosen["threshold"]).astype(np.uint8)
    labels, _ = apply_components(mask, output.connectivity, chosen["minimum_volume_mm3"] ** (2 / 3), 1.0)
    found: Mask = labels[0] > 0
    return found
