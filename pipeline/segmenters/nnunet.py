"""An imported nnU-Net on one case: from channels as they were read to the lesion probability on the same voxels.

Everything after the network is linear until the last step, so what is not asked for is left out early: of two classes' logits only their
difference is kept, of softmax maps only the lesion's sum. That halves memory and time and changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bundle import Bundle
from pipeline.errors import BundleError
from pipeline.geometry import Affine, Grid, Shape, Triple, same_grid, spacing_mm
from pipeline.inference.session import Network, open_network
from pipeline.inference.sliding_window import apply_tiles, plan_tiles
from pipeline.nnunet_manifest import REFERENCE, NnUNetSpec
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.nnunet_case import CasePlan, apply_case, plan_case, undo_case
from pipeline.preprocess.resample import IDENTITY, sample_linear
from pipeline.records import FloatArray, Volume


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


def segment_case(
    bundle: Bundle,
    images: Mapping[str, Volume],
    links: Mapping[str, Affine],
    brain: Brain,
    reference: Grid,
    threads: int,
    provider: str = "cpu",
) -> tuple[Volume, dict[str, Any]]:
    """Return the lesion probability on the voxels that the network works from, and what was done.

    Parameters
    ----------
    images
        Role to image in axial canonical order.
    links
        Role to 4x4 from the reference's mm to that image's mm.
    brain
        The brain in the reference's mm; what lies outside is blanked for a network that was trained on extracted brains.

    Raises
    ------
    PipelineError
        The image is empty, the network cannot be run, or it answers with NaN or infinite values.
    """
    spec = bundle.nnunet
    if spec is None:
        raise BundleError(f"{bundle.name} is no nnU-Net: its manifest has no such table", code="model-manifest-invalid")
    grid = _working_grid(spec, images, links, reference)
    array = np.stack([_on_grid(images[channel], grid, links.get(channel, IDENTITY)) for channel in bundle.channels])
    if bundle.input.head == "brain-extracted":
        array = array * (sample_linear(brain.soft, grid) >= brain.threshold)
    flips = tuple(axis for axis, letter, same in zip((3, 2, 1), spec.orientation, "LPS", strict=True) if letter != same)
    networks = [open_network(bundle, threads, name, provider) for name in bundle.graphs]
    probability, plan = predict_array(networks, spec, window_of(bundle), np.flip(array, flips), spacing_mm(grid.affine))
    probability = np.flip(probability, tuple(axis - 1 for axis in flips))
    used = {
        "conventions": f"nnU-Net v{spec.version}", "folds": len(networks), "mirror_axes": list(spec.mirror_axes), "grid": spec.grid,
        "box": [list(ends) for ends in plan.box], "resampled": list(plan.resampled), "threads": threads, "provider": provider,
    }  # fmt: skip
    return grid.fill(np.ascontiguousarray(probability)), used


def _working_grid(spec: NnUNetSpec, images: Mapping[str, Volume], links: Mapping[str, Affine], reference: Grid) -> Grid:
    """Return the grid of the image that the network works from, in the reference's mm."""
    if spec.grid == REFERENCE or spec.grid not in images:
        return reference
    image = images[spec.grid]
    shape = (image.array.shape[0], image.array.shape[1], image.array.shape[2])
    return Grid(shape, np.linalg.inv(links.get(spec.grid, IDENTITY)) @ image.affine, reference.frame_of_reference_uid)


def _on_grid(image: Volume, grid: Grid, link: Affine) -> FloatArray:
    moved = Volume(image.array, np.linalg.inv(link) @ image.affine, grid.frame_of_reference_uid)
    if same_grid(moved, grid):
        return image.array.astype(np.float32, copy=False)
    return sample_linear(image, grid, link)


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
