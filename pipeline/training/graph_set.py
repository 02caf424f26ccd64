"""Bundles of several networks: each graph is written and compared.

The whole is run by the code that the node runs.
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
from pipeline.geometry import Grid
from pipeline.plan import plan_network
from pipeline.segmenters.case import Channels
from pipeline.segmenters.families import infer_channels
from pipeline.training.agreement import Agreement, compare, summarise
from pipeline.training.bundle_writer import BundleText, Numbers
from pipeline.training.card_tables import cuts_of, flatten
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.network import count_parameters
from pipeline.training.onnx_graph import store_as_float16, write_onnx
from pipeline.training.proof import draw_proof_cases
from pipeline.training.tasks import Task

Float = npt.NDArray[np.float32]
Samples = tuple[Sequence[Path], Sequence[Path]]
"""Held-out samples: those that settle the thresholds, and those that are scored."""
COMMON_THRESHOLD = 0.5
"""Where the planes' own thresholds are moved to.

The combinations' thresholds are chosen afterwards, on the majority.
"""


def new_folder(models: Path, text: BundleText, version: str) -> Path:
    """Return the bundle's folder, which is made."""
    folder = models / text.name / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_graph(path: Path, checkpoint: Checkpoint, task: Task, proved: int) -> Agreement:
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


def numbers_for(
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


def as_predictor(bundle: Bundle) -> Callable[[Float], Float]:
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


def export_table(exports: Mapping[str, Agreement]) -> str:
    """Return how closely each exported graph follows torch, as Markdown."""
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
