"""Bundles of several networks.

Graphs written, thresholds settled and figures taken by the code that the node runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.geometry import Grid
from pipeline.inference.session import open_network
from pipeline.plan import plan_network
from pipeline.segmenters.case import Channels
from pipeline.segmenters.families import infer_channels, load_bundle
from pipeline.segmenters.proposal3d.segment import propose
from pipeline.segmenters.proposal3d.spec import COARSE_GRAPH, PROPOSAL_GRAPH, ProposalSpec
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS
from pipeline.training.agreement import Agreement, compare, summarise
from pipeline.training.bundle_writer import BUNDLES, Numbers, write_card, write_manifest
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.export import cuts_of, flatten, score_table
from pipeline.training.network import count_parameters
from pipeline.training.onnx_graph import open_session, run_session, store_as_float16, write_onnx
from pipeline.training.pool import read_sample
from pipeline.training.proof import draw_proof_cases
from pipeline.training.score import best_threshold, score_all, score_samples
from pipeline.training.tasks import TASKS, Task, keep_channels

Float = npt.NDArray[np.float32]
Samples = tuple[Sequence[Path], Sequence[Path]]
"""Held-out samples: those that settle the thresholds, and those that are scored."""
COMMON_THRESHOLD = 0.5
"""Where the planes' own thresholds are moved to.

The combinations' thresholds are chosen afterwards, on the majority.
"""
PROPOSAL = {"smallest_pixels": 4, "area_change": 0.2, "head_iou": 0.7, "box_iou": 0.7, "coarse": True}
"""The published rules (the smallest box of 5 x 5 pixels of 1 mm is about 4 pixels of 2 mm).

Our coarse pass has rules of its own.
"""


def export_triplanar(
    planes: Mapping[str, Checkpoint],
    models: Path,
    samples: Samples,
    *,
    version: str,
    training: Mapping[str, Any],
    sections: Mapping[str, str],
    proved: int,
) -> Path:
    """Write `models/stroke-lesion-triplanar/<version>/` from one checkpoint for each plane, and return it."""
    graphs = {
        PLANE_GRAPHS[plane]: (checkpoint, TASKS[f"triplanar-{plane}"]) for plane, checkpoint in planes.items()
    }
    task = TASKS["triplanar-axial"]
    folder = _new_folder(models, "triplanar", version)
    exports = {
        name: _write_graph(folder / name, *graph_source, proved) for name, graph_source in graphs.items()
    }
    own: dict[str, float] = {}
    alone: dict[str, dict[str, float]] = {}
    for plane in planes:
        session = open_session(onnx.load(folder / PLANE_GRAPHS[plane]), torch.get_num_threads())
        run = lambda image, session=session: run_session(session, image)  # noqa: E731
        own[plane], alone[plane] = _settle_alone(run, task, samples)
    numbers = _numbers(
        task, version, training, {name: checkpoint for name, (checkpoint, _) in graphs.items()}
    )
    table = ("triplanar", {"thresholds": own})
    write_manifest(folder, BUNDLES["triplanar"], numbers({}, COMMON_THRESHOLD), table)
    scores = score_all(_as_predictor(load_bundle(folder)), task, *samples)
    settled = numbers(scores, COMMON_THRESHOLD)
    write_manifest(folder, BUNDLES["triplanar"], settled, table)
    text = {
        "Results on held-out synthetic cases": score_table(scores),
        "Each plane alone": _alone_text(own, alone),
    }
    write_card(folder, BUNDLES["triplanar"], settled, {"Export": _export_table(exports), **text, **sections})
    return folder


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
    folder = _new_folder(models, "proposal3d", version)
    exports = {
        name: _write_graph(folder / name, *graph_source, proved) for name, graph_source in graphs.items()
    }
    numbers = _numbers(
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
    write_manifest(folder, BUNDLES["proposal3d"], numbers({}, COMMON_THRESHOLD), table)
    bundle = load_bundle(folder)
    scores = score_all(_as_predictor(bundle), task, *samples)
    settled = numbers(scores, next(iter(scores.values()))["threshold"])
    write_manifest(folder, BUNDLES["proposal3d"], settled, table)
    text = {
        "Results on held-out synthetic cases": score_table(scores),
        "What the regions hold": _coverage_text(measure_coverage(bundle, task, samples[1])),
    }
    write_card(folder, BUNDLES["proposal3d"], settled, {"Export": _export_table(exports), **text, **sections})
    return folder


def _new_folder(models: Path, bundle: str, version: str) -> Path:
    folder = models / BUNDLES[bundle].name / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_graph(path: Path, checkpoint: Checkpoint, task: Task, proved: int) -> Agreement:
    """Write one graph with Float16 weights; return how closely it follows torch."""
    network = checkpoint.averaged_network()
    # A region's graph takes a region, every other one the whole grid.
    shape = task.crop or task.grid.shape
    with tempfile.TemporaryDirectory() as scratch:
        full = write_onnx(network, shape, Path(scratch) / "full.onnx")
        if shape != task.grid.shape:
            wide = write_onnx(network, task.grid.shape, Path(scratch) / "wide.onnx")
    half = store_as_float16(full)
    onnx.save(half, path)
    compared = (full, half) if shape == task.grid.shape else (wide, store_as_float16(wide))
    cases = draw_proof_cases(task, dict.fromkeys(task.combinations, COMMON_THRESHOLD), proved)
    rows = compare(network, *compared, cases, task.grid.voxel_ml)
    return summarise(rows, len(half.SerializeToString()) / len(full.SerializeToString()))


def _numbers(
    task: Task,
    version: str,
    training: Mapping[str, Any],
    checkpoints: Mapping[str, Checkpoint],
    patch: tuple[int, int, int] | None = None,
) -> Callable[[Mapping[str, Mapping[str, float]], float], Numbers]:
    """Return what makes the numbers from (table of scores, default threshold)."""
    stems = {
        name.removesuffix(".onnx").replace("-", "_"): checkpoint for name, checkpoint in checkpoints.items()
    }
    facts = dict(training)
    for stem, checkpoint in stems.items():
        facts |= {
            f"{stem}_steps": checkpoint.step,
            f"{stem}_minutes": round(checkpoint.seconds / 60, 1),
            f"{stem}_parameters": count_parameters(checkpoint.averaged_network()),
        }
    grid = task.grid

    def number(scores: Mapping[str, Mapping[str, float]], default: float) -> Numbers:
        thresholds, peaks = cuts_of(scores)
        shape = patch or grid.shape
        return Numbers(
            version,
            task.architecture.channels,
            shape,
            grid.spacing_mm,
            default,
            thresholds,
            facts,
            {},
            flatten(scores),
            peaks,
        )

    return number


def _as_predictor(bundle: Bundle) -> Callable[[Float], Float]:
    """Return the bundle as a function of one prepared sample (channel, slice, row, column).

    The function is the code that the node runs.
    """
    network_plan = plan_network(bundle, (), threads=torch.get_num_threads())

    def predict(image: Float) -> Float:
        return infer_channels(bundle, sample_channels(image), network_plan)[0].probability.array

    return predict


def sample_channels(image: Float) -> Channels:
    """Return a prepared sample on a grid of its own."""
    shape = (image.shape[1], image.shape[2], image.shape[3])
    return Channels(image, Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]], "sample"))


def _settle_alone(
    run: Callable[[Float], Float], task: Task, samples: Samples
) -> tuple[float, dict[str, float]]:
    """Return the threshold that suits one plane over all combinations, and its mean Dice by combination."""
    choosing, scored = samples
    case_scores = [
        score
        for name in task.combinations
        for score in score_samples(run, task, choosing, name, COMMON_THRESHOLD)
    ]
    own = best_threshold(case_scores)
    alone = {name: score_samples(run, task, scored, name, own) for name in task.combinations}
    return own, {
        name: float(np.mean([score.dice[own] for score in scores])) for name, scores in alone.items()
    }


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
            "Mean share of the lesion's voxels inside the regions: what the slices propose alone (published), with the coarse pass (backed), and how much "
            "of the grid the backed regions fill."
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


def _alone_text(own: Mapping[str, float], alone: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(iter(alone.values())))
    lines = [
        "Mean Dice of one plane at its own threshold, on the same cases.",
        "",
        "| plane | threshold | " + " | ".join(names) + " |",
    ]
    lines.append("| --- |" * 1 + " --- |" * (1 + len(names)))
    lines += [
        f"| {plane} | {own[plane]:.2f} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |"
        for plane, row in alone.items()
    ]
    return "\n".join(lines)


def _export_table(exports: Mapping[str, Agreement]) -> str:
    head = (
        "Each graph on fresh synthetic cases (whole grid), its ONNX Float32 and its ONNX "
        "with Float16 weights against torch."
    )
    columns = (
        "graph",
        "cases",
        "Float32 - Float64",
        "Float16 - Float64",
        "Dice change mean",
        "worst",
        "size of Float32",
    )
    lines = [head, "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name, agreement in exports.items():
        cells = [
            f"{agreement.max_difference_float32:.1e}",
            f"{agreement.max_difference_float16:.1e}",
            f"{agreement.dice_change_mean:.1e}",
            f"{agreement.dice_change_worst:.1e}",
        ]
        lines.append(
            f"| {name} | {agreement.cases} | "
            + " | ".join(cells)
            + f" | {100 * agreement.size_ratio:.1f} % |"
        )
    return "\n".join(lines)
