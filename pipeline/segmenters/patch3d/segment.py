"""Patch-wise 3D networks: resample, correct bias, normalise, tile, run.

What a manifest can choose is a row in a table.

Tables: `preprocess.resample.SCHEMES`, `preprocess.normalize.SCHEMES`, `ACTIVATIONS` here; `window.aggregate`
says whether tiles are averaged before or after the activation (nnU-Net v1: probabilities, v2: logits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.geometry import Affine, Grid
from pipeline.inference.passes import average_passes
from pipeline.inference.session import Network, open_network
from pipeline.inference.sliding_window import apply_tiles, plan_tiles
from pipeline.journal import Journal
from pipeline.preprocess.correct_bias import apply_bias_correction, plan_bias_correction
from pipeline.preprocess.crop import apply_box, plan_head_box
from pipeline.preprocess.normalize import apply_normalization
from pipeline.preprocess.resample import IDENTITY, apply_resampling, plan_mask_grid, sample_linear
from pipeline.records import FloatArray, NetworkPlan, Volume
from pipeline.segmenters.case import Answer, Case, Channels

Mask = npt.NDArray[np.bool_]


def prepare_case(bundle: Bundle, case: Case, plan: NetworkPlan, journal: Journal) -> Channels:
    """Return the network's input: resampled around the brain, bias corrected, normalised."""
    with journal.step("resample") as parameters:
        grid = plan_mask_grid(case.brain.mask, bundle.input.spacing_mm, bundle.least_shape)
        channels = resample_channels(bundle, case.images, grid, case.links)
        mask = sample_linear(case.brain.soft, grid) >= case.brain.threshold
        parameters.update(channels.parameters)
    with journal.step("correct_bias") as parameters:
        if plan.bias_correction:
            channels = correct_channels(bundle, channels, mask)
            parameters.update(channels.parameters)
    with journal.step("normalise") as parameters:
        channels = normalise_channels(
            bundle, channels, mask if bundle.input.head == "brain-extracted" else None
        )
        parameters.update(channels.parameters)
    return channels


def resample_channels(
    bundle: Bundle, images: Mapping[str, Volume], grid: Grid, links: Mapping[str, Affine]
) -> Channels:
    """Return every channel on the grid.

    A channel that is not given is all zeros, which the network was trained for.
    """
    array = np.zeros((len(bundle.channels), *grid.shape), np.float32)

    def resample(number: int) -> None:
        channel = bundle.channels[number]
        array[number] = apply_resampling(
            bundle.preprocess.resample, images[channel], grid, links.get(channel, IDENTITY)
        )

    present = [number for number, channel in enumerate(bundle.channels) if channel in images]
    with ThreadPoolExecutor(max(1, len(present)), thread_name_prefix="resample") as cores:
        list(cores.map(resample, present))
    parameters = {
        "scheme": bundle.preprocess.resample,
        "shape": list(grid.shape),
        "spacing_mm": list(bundle.input.spacing_mm),
    }
    return Channels(array, grid, parameters)


def crop_to_head(bundle: Bundle, channels: Channels) -> Channels:
    """Return the part that holds the head where the field of view is larger than one patch."""
    box = plan_head_box(channels.array.max(axis=0), bundle.input.patch)
    array, grid = apply_box(channels.array, channels.grid, box)
    return Channels(array, grid, {**channels.parameters, "shape": list(grid.shape)})


def correct_channels(bundle: Bundle, channels: Channels, mask: Mask) -> Channels:
    """Return every channel divided by its bias field."""
    plan = plan_bias_correction(bundle.input.spacing_mm)
    array = channels.array.copy()
    parameters: dict[str, Any] = {"shrink": list(plan.shrink), "iterations": list(plan.iterations)}
    present = _present(channels)
    # Each image on a core of its own: one does not look at the other, and each field is found on one thread.
    with ThreadPoolExecutor(max(1, len(present)), thread_name_prefix="bias") as cores:
        images = (channels.array[number] for number in present)
        corrected = list(cores.map(lambda image: apply_bias_correction(image, mask, plan), images))
    for number, (image, strength) in zip(present, corrected, strict=True):
        array[number] = image
        parameters[f"{bundle.channels[number]}_strength"] = strength
    return Channels(array, channels.grid, parameters)


def normalise_channels(bundle: Bundle, channels: Channels, mask: Mask | None) -> Channels:
    """Return every channel on the scale that the network was trained on."""
    array = channels.array.copy()
    parameters: dict[str, Any] = {"scheme": bundle.preprocess.normalise}
    for number in _present(channels):
        array[number], normalisation = apply_normalization(
            bundle.preprocess.normalise, channels.array[number], mask, bundle.preprocess.normalise_parameters
        )
        parameters[bundle.channels[number]] = normalisation
    return Channels(array, channels.grid, parameters)


def infer(bundle: Bundle, channels: Channels, plan: NetworkPlan) -> tuple[Answer, dict[str, Any]]:
    """Run the network over the grid; see `infer_graph`."""
    return infer_graph(bundle, channels, plan, GRAPH)


def infer_graph(
    bundle: Bundle,
    channels: Channels,
    plan: NetworkPlan,
    name: str,
    adapt: Callable[[Network], Network] = lambda network: network,
) -> tuple[Answer, dict[str, Any]]:
    """Run one of the bundle's graphs over the grid and return its answer, float32, and how it was tiled.

    Parameters
    ----------
    adapt
        Makes a function of one patch out of a graph that takes something else.

    Raises
    ------
    BundleError
        The graph is not as the manifest says, or answers with NaN or infinite values.
    """
    network = adapt(open_network(bundle, plan.threads, name, plan.provider))
    activate = ACTIVATIONS[bundle.output.activation]
    late = bundle.window.aggregate == "logits"
    mirrors = bundle.window.mirror_axes
    run = average_passes(
        [network],
        mirrors,
        (lambda maps: maps) if late else activate,
        (lambda maps: (activate(maps) if late else maps) >= plan.threshold) if mirrors else None,
    )
    tiles = plan_tiles(
        channels.grid.shape, bundle.input.patch, bundle.window.step, gaussian=bundle.window.gaussian
    )
    maps = apply_tiles(run, channels.array, tiles)
    votes = channels.grid.fill(maps[-1]) if mirrors else None
    maps = maps[:-1] if mirrors else maps
    probability = (activate(maps) if late else maps)[0].clip(0.0, 1.0)
    parameters: dict[str, Any] = {
        "tiles": len(tiles.corners),
        "patch": list(tiles.patch),
        "aggregate": bundle.window.aggregate,
    }
    parameters |= {"mirror_axes": list(mirrors), "threads": plan.threads, "provider": plan.provider}
    return Answer(channels.grid.fill(probability), votes), parameters


def _present(channels: Channels) -> list[int]:
    return [number for number, image in enumerate(channels.array) if image.any()]


def _sigmoid(logits: FloatArray) -> FloatArray:
    # The tanh form neither overflows nor divides by zero.
    answer: FloatArray = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return answer


def _softmax_foreground(logits: FloatArray) -> FloatArray:
    """Probability of the second of two classes.

    The softmax of two logits is the sigmoid of their difference.
    """
    return _sigmoid(logits[1:2] - logits[0:1])


ACTIVATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "in-graph": lambda maps: maps,
    "sigmoid": _sigmoid,
    "softmax": _softmax_foreground,
}
"""Name in the manifest to function: (map, slice, row, column) to (1, slice, row, column) probability."""
