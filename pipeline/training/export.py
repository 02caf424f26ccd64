"""From a checkpoint to a bundle: scores, thresholds, ONNX, agreement, manifest and card."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pipeline.training.bundle_writer import BUNDLES, Numbers, write_card, write_manifest
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.network import count_parameters
from pipeline.training.onnx_graph import compare, store_as_float16, write_onnx
from pipeline.training.pool import read_sample
from pipeline.training.score import score_all
from pipeline.training.tasks import Task, keep_channels


def export_bundle(
    checkpoint: Checkpoint,
    task: Task,
    models: Path,
    validation: Sequence[Path],
    *,
    version: str,
    training: Mapping[str, Any],
    sections: Mapping[str, str],
    curve: Path | None = None,
    compared: int | None = None,
) -> Path:
    """Write `models/<name>/<version>/` and return it.

    Parameters
    ----------
    validation
        Held-out samples: every second one chooses the thresholds, the others are scored.
    training
        What the manifest says about the run (seed, compute, ...); steps and parameters are added here.
    compared
        How many of the samples the exported files are compared with torch on; all when absent.
    sections
        Further parts of the card, heading to Markdown: results on real images, pictures, failures.
    """
    text = BUNDLES[task.name]
    folder = models / text.name / version
    folder.mkdir(parents=True, exist_ok=True)
    network = checkpoint.averaged_network()
    table = score_all(network, validation, task)
    thresholds = {name: row["threshold"] for name, row in table.items()}
    default = next(iter(thresholds.values()))
    with tempfile.TemporaryDirectory() as scratch:
        full = write_onnx(network, task.grid.shape, Path(scratch) / "full.onnx")
    half = store_as_float16(full)
    onnx.save(half, folder / "model.onnx")
    agreement = compare(network, full, half, _inputs(task, validation[:compared]), default, task.grid.voxel_ml)
    numbers = Numbers(
        version, task.architecture.channels, task.grid.shape, task.grid.spacing_mm, default, thresholds,
        {**training, "steps": checkpoint.step, "minutes": round(checkpoint.seconds / 60, 1),
         "parameters": count_parameters(network)},
        asdict(agreement), _flatten(table),
    )  # fmt: skip
    if curve is not None and curve.exists():
        shutil.copy(curve, folder / "curve.png")
    write_manifest(folder, text, numbers)
    write_card(folder, text, numbers, {"Results on held-out synthetic cases": score_table(table), **sections})
    return folder


def _inputs(task: Task, paths: Sequence[Path]) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Yield samples with their combinations in turn."""
    names = list(task.combinations)
    for number, path in enumerate(paths):
        image, label = read_sample(path)
        visible = keep_channels(image, task.architecture.channels, names[number % len(names)])
        yield visible.numpy(), (label > 0.5).numpy()


def _flatten(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"synthetic_{name.replace('+', '_')}_{key}": value for name, row in table.items() for key, value in row.items()}


def score_table(table: Mapping[str, Mapping[str, float]]) -> str:
    """Return the scores as Markdown: one row for each figure, one column for each combination."""
    names = list(table)
    keys = list(dict.fromkeys(key for row in table.values() for key in row))
    lines = ["| figure | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for key in keys:
        cells = [f"{table[n][key]:.2f}" if key in table[n] else "" for n in names]
        lines.append(f"| {key.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read_sections(path: Path | None) -> dict[str, str]:
    """Read the card's further parts from a JSON file (heading to Markdown)."""
    return {} if path is None else dict(json.loads(path.read_text()))
