"""One residual 2D network for each plane: at 2 mm by majority, and at 1 mm trained on real strokes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from pipeline.bundles.bundle import Bundle
from pipeline.segmenters.families import load_bundle
from pipeline.segmenters.triplanar.spec import PLANE_GRAPHS, PLANES, TriplanarSpec
from pipeline.training.build import Network, build_network
from pipeline.training.bundle_writer import BundleText, Numbers, write_card, write_manifest
from pipeline.training.card_tables import score_table
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.families.patch3d import LESION
from pipeline.training.graph_set import (
    COMMON_THRESHOLD,
    Float,
    Samples,
    as_predictor,
    export_table,
    new_folder,
    numbers_for,
    write_graph,
)
from pipeline.training.network import Architecture, count_parameters
from pipeline.training.onnx_graph import open_session, run_session, store_as_float16, write_plane_graph
from pipeline.training.planar_network import fold_normalisation, size_divisor
from pipeline.training.plane_schedule import plane_architecture
from pipeline.training.score import best_threshold, score_all, score_samples
from pipeline.training.synthesis.subject import FINE_GRID
from pipeline.training.tasks import Task, planar_task

TASKS = {f"triplanar-{plane}": planar_task(plane, (16, 32, 64, 128, 128)) for plane in PLANES}
"""By name on the command line."""
MAJORITY = replace(
    LESION,
    name="stroke-lesion-triplanar",
    title="Stroke lesions by three planes of 2D networks and their majority, 2 mm",
    family="triplanar",
    graphs=("model-axial.onnx", "model-coronal.onnx", "model-sagittal.onnx"),
    how=(
        *LESION.how,
        (
            "One residual 2D U-Net for each of the axial, coronal and sagittal planes sees the volume "
            "slice by slice. A voxel is lesion where two of the three say so; the share of planes that do "
            "is kept as agreement."
        ),
        (
            "The probability that comes out is the middle one of the three: it reaches a "
            "threshold exactly where two planes do."
        ),
        (
            "After the published method (arXiv 2511.07281, of which only the abstract was at "
            "hand): depth, widths, loss and training are our own."
        ),
    ),
)
PLANES_1MM = replace(
    MAJORITY,
    title="Stroke lesions by three planes of 2D networks, trained on real strokes, 1 mm",
    accepts=(("t1", "flair"), ("flair",)),
    how=(
        LESION.how[0].replace("2 mm", "1 mm"),
        LESION.how[1],
        (
            "One residual 2D U-Net for each of the axial, coronal and sagittal planes sees the "
            "volume slice by slice, on blocks of 2 x 2 pixels."
        ),
        (
            "The planes' probabilities are averaged or voted as `triplanar.rule` says; the share "
            "of planes that vote for lesion is kept as agreement."
        ),
        (
            "After the published method (arXiv 2511.07281, of which only the abstract was at "
            "hand): depth, widths, loss and training are our own."
        ),
    ),
)
MINIMUM_VOLUME_MM3 = 50.0
SLICES_AT_ONCE = 2
"""How many slices a graph takes."""
MARGIN = 8
"""Voxels around the image of a slice that a network is shown: with none its answers change by up to 0.006."""


@dataclass(frozen=True)
class PlaneCuts:
    """Where the planes' answer is cut.

    Attributes
    ----------
    planes
        Threshold of each plane, which the bundle moves onto `common`.
    common
        Default threshold of the combined probability.
    thresholds, peaks
        By channel combination.
    rule
        "vote" or "average".
    calibration
        The manifest's `output.calibration`, as `calibrate --facts` writes it; None where nobody calibrated.
    stride
        Of so many slices one is asked about.
    """

    planes: Mapping[str, float]
    common: float = 0.5
    thresholds: Mapping[str, float] | None = None
    peaks: Mapping[str, float] | None = None
    minimum_volume_mm3: float = MINIMUM_VOLUME_MM3
    rule: str = "average"
    calibration: Mapping[str, Any] | None = None
    stride: int = 1


@dataclass(frozen=True)
class PlaneProvenance:
    """What the manifest says of the training: a few words for every result, a longer text, and numbers."""

    trained_on: str
    data: str
    facts: Mapping[str, Any]


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
    folder = new_folder(models, MAJORITY, version)
    exports = {
        name: write_graph(folder / name, *graph_source, proved) for name, graph_source in graphs.items()
    }
    own: dict[str, float] = {}
    alone: dict[str, dict[str, float]] = {}
    for plane in planes:
        session = open_session(onnx.load(folder / PLANE_GRAPHS[plane]), torch.get_num_threads())
        run = lambda image, session=session: run_session(session, image)  # noqa: E731
        own[plane], alone[plane] = _settle_alone(run, task, samples)
    numbers = numbers_for(
        task, version, training, {name: checkpoint for name, (checkpoint, _) in graphs.items()}
    )
    table = ("triplanar", {"thresholds": own})
    write_manifest(folder, MAJORITY, numbers({}, COMMON_THRESHOLD), table)
    scores = score_all(as_predictor(load_bundle(folder)), task, *samples)
    settled = numbers(scores, COMMON_THRESHOLD)
    write_manifest(folder, MAJORITY, settled, table)
    text = {
        "Results on held-out synthetic cases": score_table(scores),
        "Each plane alone": _alone_text(own, alone),
    }
    write_card(folder, MAJORITY, settled, {"Export": export_table(exports), **text, **sections})
    return folder


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


def read_average(path: Path, plane: str) -> Network:
    """Return one plane's network with the averaged weights of a file.

    It is in evaluation mode, with batch normalisation folded.
    """
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # The first run kept bare weights; later ones keep whole checkpoints.
    average: dict[str, Tensor] = content.get("average", content)
    widths = tuple(
        average[f"encode.{level}.first.weight"].shape[0]
        for level in range(sum(name.startswith("up.") for name in average) // 2 + 1)
    )
    other_side = sum(name.startswith("other_side.") for name in average)
    network = build_network(plane_architecture(plane, widths, other_side))
    network.load_state_dict(average)
    fold_normalisation(network.eval())
    return network


def export_planes(
    averages: Mapping[str, Path],
    models: Path,
    *,
    version: str,
    cuts: PlaneCuts,
    provenance: PlaneProvenance,
    measured: Mapping[str, float] | None = None,
    sections: Mapping[str, str] | None = None,
) -> Bundle:
    """Write `models/stroke-lesion-triplanar/<version>/` and return it as the node would load it."""
    folder = models / PLANES_1MM.name / version
    folder.mkdir(parents=True, exist_ok=True)
    networks = {plane: read_average(averages[plane], plane) for plane in PLANE_GRAPHS}
    for plane, name in PLANE_GRAPHS.items():
        with tempfile.TemporaryDirectory() as scratch:
            shape = TriplanarSpec({}, slices=SLICES_AT_ONCE).shape_of(name, FINE_GRID.shape)
            full = write_plane_graph(networks[plane], shape, Path(scratch) / "full.onnx")
        onnx.save(store_as_float16(full), folder / name)
    architecture = networks[PLANES[0]].architecture
    write_texts(folder, architecture, cuts, provenance, measured or {}, sections or {})
    return load_bundle(folder)


def write_texts(
    folder: Path,
    architecture: Architecture,
    cuts: PlaneCuts,
    provenance: PlaneProvenance,
    measured: Mapping[str, float],
    sections: Mapping[str, str],
) -> None:
    """Write the manifest and the card of the graphs that lie in `folder`."""
    text = replace(
        PLANES_1MM,
        trained_on=provenance.trained_on,
        data=provenance.data,
        minimum_volume_mm3=cuts.minimum_volume_mm3,
    )
    facts = dict(provenance.facts) | {
        "parameters_of_each_plane": count_parameters(build_network(architecture))
    }
    numbers = Numbers(
        folder.name,
        architecture.channels,
        FINE_GRID.shape,
        FINE_GRID.spacing_mm,
        cuts.common,
        cuts.thresholds or dict.fromkeys(_combinations(text), cuts.common),
        facts,
        {},
        measured,
        cuts.peaks or {},
        cuts.calibration or {},
    )
    write_manifest(
        folder,
        text,
        numbers,
        (
            "triplanar",
            {
                "thresholds": dict(cuts.planes),
                "rule": cuts.rule,
                "slices": SLICES_AT_ONCE,
                "multiple": size_divisor(architecture),
                "margin": MARGIN,
                "stride": cuts.stride,
            },
        ),
    )
    write_card(folder, text, numbers, sections)


def _combinations(text: BundleText) -> Sequence[str]:
    return ["+".join(combination) for combination in text.accepts]
