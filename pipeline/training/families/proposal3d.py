"""Regions that 2D slices propose, segmented in 3D, with a coarse pass beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.inference.session import open_network
from pipeline.segmenters.families import load_bundle
from pipeline.segmenters.proposal3d.segment import propose
from pipeline.segmenters.proposal3d.spec import COARSE_GRAPH, PROPOSAL_GRAPH, ProposalSpec
from pipeline.training.bundle_writer import write_card, write_manifest
from pipeline.training.card_tables import score_table
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.families.patch3d import LESION
from pipeline.training.graph_set import (
    COMMON_THRESHOLD,
    Samples,
    as_predictor,
    export_table,
    new_folder,
    numbers_for,
    write_graph,
)
from pipeline.training.network import Architecture
from pipeline.training.pool import read_sample
from pipeline.training.score import score_all
from pipeline.training.synthesis.subject import LESION_GRID
from pipeline.training.tasks import ROLES, SHARES, Task, keep_channels, planar_task

TASKS = {
    "proposal2d": planar_task("axial", (16, 24, 48, 96, 96), mirrored=True),
    "proposal-coarse": Task("lesion", LESION_GRID, Architecture(ROLES, (16, 32, 64, 96), shrink=2), SHARES),
    "proposal3d": Task(
        "lesion", LESION_GRID, Architecture(ROLES, (8, 24, 48, 96, 128)), SHARES, crop=(64, 64, 64), focus=0.8
    ),
}
"""By name on the command line."""
PROPOSAL = {"smallest_pixels": 4, "area_change": 0.2, "head_iou": 0.7, "box_iou": 0.7, "coarse": True}
"""The published rules (the smallest box of 5 x 5 pixels of 1 mm is about 4 pixels of 2 mm).

Our coarse pass has rules of its own.
"""
PROPOSAL_TEXT = replace(
    LESION,
    name="stroke-lesion-proposal",
    title="Stroke lesions in regions that 2D proposals choose, 2 mm",
    family="proposal3d",
    graphs=("model.onnx", "model-proposal.onnx", "model-coarse.onnx"),
    how=(
        *LESION.how,
        (
            "A residual 2D U-Net gives a heat map for each axial slice, from the slice and its absolute "
            "difference from its mirror image; a slice proposes the rectangle around the pieces of it. "
            "Slices are grouped while the head changes by at most 0.20 in area and overlaps by at least "
            "0.70 (against the group's first slice); a group settles on its most frequent rectangle (IoU "
            "0.7, at least two, averaged) or on what encloses all. Regions are grown to 64 voxels a side, "
            "as in the original (there of 1 mm, here of 2 mm: 128 mm), and segmented by a 3D U-Net with a "
            "Gaussian window; overlapping regions are averaged, everything else is background."
        ),
        (
            "A 3D network on a grid of 4 mm adds the regions that the slices missed; `proposal.coarse = "
            "false` switches it off (the published behaviour). The last open group is kept (the original "
            "loses it)."
        ),
        (
            "After StrokeFormer (method only, no code): its proposals are a Faster R-CNN on a TrUE-Net "
            "encoder and its second stage a SegFormer3D of 4.5 M parameters; ours are U-Nets, which need "
            "no operators beyond plain convolutions and run in a fraction of a second on a CPU."
        ),
    ),
)


def export_proposal(
    networks: Mapping[str, Checkpoint],
    models: Path,
    samples: Samples,
    *,
    version: str,
    training: Mapping[str, Any],
    sections: Mapping[str, str],
    proved: int,
    thresholds: tuple[float, float] = (0.3, 0.3),
) -> Path:
    """Write `models/stroke-lesion-proposal/<version>/` from its three checkpoints, and return it.

    Parameters
    ----------
    networks
        By task: "proposal3d", "proposal2d", "proposal-coarse".
    thresholds
        At which the slices and the coarse pass propose: low, because what is not proposed is lost.
    """
    files = {GRAPH: "proposal3d", PROPOSAL_GRAPH: "proposal2d", COARSE_GRAPH: "proposal-coarse"}
    graphs = {name: (networks[key], TASKS[key]) for name, key in files.items()}
    task = TASKS["proposal3d"]
    folder = new_folder(models, PROPOSAL_TEXT, version)
    exports = {
        name: write_graph(folder / name, *graph_source, proved) for name, graph_source in graphs.items()
    }
    numbers = numbers_for(
        task, version, training, {name: checkpoint for name, (checkpoint, _) in graphs.items()}, task.crop
    )
    table = (
        "proposal",
        {
            "patch": list(task.grid.shape),
            "threshold": thresholds[0],
            **PROPOSAL,
            "coarse_threshold": thresholds[1],
        },
    )
    write_manifest(folder, PROPOSAL_TEXT, numbers({}, COMMON_THRESHOLD), table)
    bundle = load_bundle(folder)
    scores = score_all(as_predictor(bundle), task, *samples)
    settled = numbers(scores, next(iter(scores.values()))["threshold"])
    write_manifest(folder, PROPOSAL_TEXT, settled, table)
    text = {
        "Results on held-out synthetic cases": score_table(scores),
        "What the regions hold": _coverage_text(measure_coverage(bundle, task, samples[1])),
    }
    write_card(folder, PROPOSAL_TEXT, settled, {"Export": export_table(exports), **text, **sections})
    return folder


def measure_coverage(bundle: Bundle, task: Task, paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return, for each combination, the share of lesion voxels inside the regions, published and backed.

    The share of the grid that the regions fill comes with it.
    """
    spec = bundle.family_spec
    if not isinstance(spec, ProposalSpec):
        raise TypeError(f"{bundle.name} proposes no regions")
    networks = {name: open_network(bundle, torch.get_num_threads(), name) for name in bundle.graphs}
    rows = {}
    for name in task.combinations:
        shares: dict[str, list[float]] = {"published": [], "backed": [], "filled": []}
        for path in paths:
            image, label = read_sample(path)
            visible = keep_channels(image, task.architecture.channels, name)
            truth = ((label > 0.5) & (visible != 0).any(dim=0)).numpy()
            for key, coarse in (("published", False), ("backed", True)):
                rules = ProposalSpec(**{**vars(spec), "coarse": coarse})
                inside = np.zeros(truth.shape, bool)
                for box in propose(rules, networks, visible.numpy(), bundle.input.patch)[0]:
                    inside[tuple(slice(first, last) for first, last in box)] = True
                if truth.any():
                    shares[key].append(float((inside & truth).sum() / truth.sum()))
            shares["filled"].append(float(inside.mean()))
        rows[name] = {key: float(np.mean(values)) for key, values in shares.items()}
    return rows


def _coverage_text(rows: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        (
            "Mean share of the lesion's voxels inside the regions: what the slices propose alone "
            "(published), with the coarse pass (backed), and how much of the grid the backed regions fill."
        ),
        "",
        "| input | published | backed | filled |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['published']:.3f} | {row['backed']:.3f} | {row['filled']:.3f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)
