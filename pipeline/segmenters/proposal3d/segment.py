"""StrokeFormer's two stages: regions proposed slice by slice, then a 3D network in each region.

A coarse pass over the whole brain backs the proposals.

The original's proposal network is a Faster R-CNN and its second stage a SegFormer3D; here both are U-Nets,
which a CPU runs faster and ONNX holds without operators of its own. The rules between them are the published
ones (`proposals`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.inference.session import Network, open_network
from pipeline.inference.sliding_window import apply_tiles, plan_tiles
from pipeline.records import FloatArray, NetworkPlan
from pipeline.segmenters.case import Answer, Channels
from pipeline.segmenters.patch3d.segment import ACTIVATIONS
from pipeline.segmenters.proposal3d.proposals import (
    Box,
    box_of,
    drop_contained,
    find_boxes,
    find_rectangle,
    group_slices,
    grow,
)
from pipeline.segmenters.proposal3d.spec import COARSE_GRAPH, PROPOSAL_GRAPH, ProposalSpec

SMALLEST_COARSE_VOXELS = 8
"""One voxel of a grid that is twice as coarse."""


def infer(bundle: Bundle, channels: Channels, plan: NetworkPlan) -> tuple[Answer, dict[str, Any]]:
    """Return the probability inside the proposed regions, zero outside them, and which regions these were.

    Raises
    ------
    BundleError
        A graph is not as the manifest says, or answers with NaN or infinite values.
    """
    spec = bundle.family_spec
    if not isinstance(spec, ProposalSpec):
        raise TypeError(f"{bundle.name} proposes no regions")
    graphs = {name: _activated(bundle, plan, name) for name in bundle.graphs}
    boxes, parameters = propose(spec, graphs, channels.array, bundle.input.patch)
    probability = segment_boxes(bundle, graphs[GRAPH], channels.array, boxes)
    parameters |= {
        "boxes": [[list(ends) for ends in box] for box in boxes],
        "threads": plan.threads,
        "provider": plan.provider,
    }
    return Answer(channels.grid.fill(probability)), parameters


def propose(
    spec: ProposalSpec, graphs: Mapping[str, Network], image: FloatArray, least: tuple[int, int, int]
) -> tuple[list[Box], dict[str, Any]]:
    """Return the regions, each at least `least` voxels, of an image (channel, slice, row, column).

    The second value says how they came about.
    """
    plan = plan_tiles(image.shape[1:], spec.patch, 0.5, gaussian=True)
    # 1. A heat map of each axial slice.
    heat = apply_tiles(graphs[PROPOSAL_GRAPH], image, plan)[0]
    # 2. One rectangle a slice, around everything that is warm enough.
    rectangles = [find_rectangle(plane, spec.threshold, spec.smallest_pixels) for plane in heat]
    # 3. Runs of slices that show the same head, and 4. one box a run.
    groups = group_slices(rectangles, (image != 0).any(axis=0), spec.area_change, spec.head_iou)
    boxes = [box_of(group, spec.box_iou) for group in groups]
    # 5. What the slices missed, from a coarse pass in 3D.
    added: list[Box] = []
    if spec.coarse:
        added = find_boxes(
            apply_tiles(graphs[COARSE_GRAPH], image, plan)[0], spec.coarse_threshold, SMALLEST_COARSE_VOXELS
        )
    # 6. Boxes of at least one patch, without those that lie in another one.
    grown = drop_contained([grow(box, least, image.shape[1:]) for box in (*boxes, *added)])
    facts = {
        "slices": sum(rectangle is not None for rectangle in rectangles),
        "groups": len(groups),
        "coarse": spec.coarse,
        "coarse_regions": len(added),
    }
    return grown, facts | {"regions": len(grown)}


def segment_boxes(bundle: Bundle, network: Network, image: FloatArray, boxes: list[Box]) -> FloatArray:
    """Return the mean probability of the boxes that hold a voxel, zero where none does."""
    total, count = np.zeros(image.shape[1:], np.float32), np.zeros(image.shape[1:], np.float32)
    for box in boxes:
        region_slices = tuple(slice(first, last) for first, last in box)
        region = image[(slice(None), *region_slices)]
        plan = plan_tiles(
            region.shape[1:], bundle.input.patch, bundle.window.step, gaussian=bundle.window.gaussian
        )
        total[region_slices] += apply_tiles(network, region, plan)[0]
        count[region_slices] += 1
    # Boxes overlap: a voxel gets the mean of those that hold it.
    probability: FloatArray = (total / np.maximum(count, 1)).clip(0.0, 1.0)
    return probability


def _activated(bundle: Bundle, plan: NetworkPlan, name: str) -> Network:
    network, activate = (
        open_network(bundle, plan.threads, name, plan.provider),
        ACTIVATIONS[bundle.output.activation],
    )
    return lambda patch: activate(network(patch))
