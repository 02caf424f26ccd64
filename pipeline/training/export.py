"""From a checkpoint to a bundle: scores, thresholds, ONNX, agreement, manifest and card."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch

from pipeline.training.agreement import compare, summarise
from pipeline.training.bundle_writer import BUNDLES, Numbers, write_card, write_manifest
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.network import count_parameters
from pipeline.training.onnx_graph import open_session, run_session, store_as_float16, write_onnx
from pipeline.training.proof import PROOF_CASES, Proof, draw_proof_cases, write_proof
from pipeline.training.score import score_all
from pipeline.training.tasks import Task


def export_bundle(
    checkpoint: Checkpoint,
    task: Task,
    models: Path,
    validation: tuple[Sequence[Path], Sequence[Path]],
    *,
    version: str,
    training: Mapping[str, Any],
    sections: Mapping[str, str],
    curve: Path | None = None,
    proved: int = PROOF_CASES,
) -> Path:
    """Write `models/<name>/<version>/` and return it; what is scored is the file that is shipped.

    Parameters
    ----------
    validation
        Held-out samples: those that settle the thresholds, and those that are scored.
    training
        What the manifest says about the run (seed, compute, ...); steps and parameters are added here.
    proved
        On how many fresh cases the exported files are compared with torch.
    sections
        Further parts of the card, heading to Markdown: results on real images, pictures, failures.
    """
    text = BUNDLES[task.name]
    folder = models / text.name / version
    folder.mkdir(parents=True, exist_ok=True)
    network = checkpoint.averaged_network()
    with tempfile.TemporaryDirectory() as scratch:
        full = write_onnx(network, task.grid.shape, Path(scratch) / "full.onnx")
    half = store_as_float16(full)
    onnx.save(half, folder / "model.onnx")
    session = open_session(half, torch.get_num_threads())
    table = score_all(lambda image: run_session(session, image), task, *validation)
    thresholds, peaks = cuts_of(table)
    default = next(iter(thresholds.values()))
    rows = compare(network, full, half, draw_proof_cases(task, thresholds, proved), task.grid.voxel_ml)
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    write_proof(folder, Proof(digest, "as trained, in Float32", tuple(rows)))
    agreement = summarise(rows, len(half.SerializeToString()) / len(full.SerializeToString()))
    numbers = Numbers(
        version, task.architecture.channels, task.grid.shape, task.grid.spacing_mm, default, thresholds,
        {**training, "steps": checkpoint.step, "minutes": round(checkpoint.seconds / 60, 1),
         "parameters": count_parameters(network)},
        asdict(agreement), flatten(table), peaks,
    )  # fmt: skip
    if curve is not None and curve.exists():
        shutil.copy(curve, folder / "curve.png")
    write_manifest(folder, text, numbers)
    write_card(folder, text, numbers, {"Results on held-out synthetic cases": score_table(table), **sections})
    return folder


def cuts_of(table: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the thresholds of a table of scores, and its peaks where there are some."""
    return {name: row["threshold"] for name, row in table.items()}, {
        name: row["peak"] for name, row in table.items() if row["peak"] > 0
    }


def flatten(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the scores as one flat table for the manifest."""
    return {
        f"synthetic_{name.replace('+', '_')}_{key}": value
        for name, row in table.items()
        for key, value in row.items()
    }


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
