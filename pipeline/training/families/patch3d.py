"""3D networks that run patch by patch: the lesion network at 2 mm and the brain extractor at 3 mm.

From a checkpoint to a bundle: scores, thresholds, ONNX, agreement, manifest and card.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch

from pipeline.training.agreement import compare, summarise
from pipeline.training.bundle_writer import BundleText, Numbers, write_card, write_manifest
from pipeline.training.card_tables import cuts_of, flatten, score_table
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.network import Architecture, count_parameters
from pipeline.training.onnx_graph import open_session, run_session, store_as_float16, write_onnx
from pipeline.training.proof import PROOF_CASES, Proof, draw_proof_cases, write_proof
from pipeline.training.score import score_all
from pipeline.training.synthesis.fields import Grid
from pipeline.training.synthesis.subject import HEAD_GRID, LESION_GRID
from pipeline.training.tasks import ROLES, SHARES, Task

TASKS = {
    "lesion": Task(
        "lesion",
        LESION_GRID,
        Architecture(ROLES, (8, 24, 48, 96, 128), mirrored=True),
        SHARES,
        crop=(64, 64, LESION_GRID.shape[2]),
    ),
    "brain": Task(
        "brain",
        HEAD_GRID,
        Architecture(("any",), (8, 16, 32, 64, 96), pyramid=False),
        {"any": 1.0},
        threshold=0.5,
    ),
    "tiny": Task(
        "lesion",
        Grid((32, 32, 32), (5.0, 6.0, 5.0)),
        Architecture(("t1", "flair"), (4, 8, 8), 1),
        {"t1+flair": 0.4, "t1": 0.3, "flair": 0.3},
    ),
}
"""By name on the command line; "tiny" exists for the tests."""

LESION = BundleText(
    name="stroke-lesion-2mm",
    task="lesion",
    title="Stroke lesions on T1 and/or FLAIR, 2 mm",
    intended_use="Research: outline of ischemic stroke lesions on T1 and/or FLAIR brain MR of adults.",
    head="brain-extracted",
    normalise="brain-median",
    normalise_parameters={"clip": [0.0, 3.0]},
    accepts=(("t1", "flair"), ("t1",), ("flair",)),
    minimum_volume_mm3=50.0,
    connectivity=26,
    data="Synthetic heads from the ICBM 152 2009a T1, grey and white matter maps (nilearn). Lesions: half "
    "grown procedurally, half real outlines of acute stroke in MNI space (Stroke Outcome Optimization "
    "Project, 1,449 maps, BSD-2-Clause; 144 held out). No real image was used for training.",
    how=(
        (
            "Input: T1 and FLAIR on one 2 mm grid in axial canonical order (axis 0 to the head, "
            "axis 1 to posterior, axis 2 to the left)."
        ),
        (
            "Each channel is divided by its median inside the brain mask, clipped to 0..3, and set to zero "
            "outside the mask. A missing channel is all zeros."
        ),
    ),
)
BRAIN = BundleText(
    name="brain-extractor-3mm",
    task="brain",
    title="Brain mask on any MR contrast, 3 mm",
    intended_use="Research: brain mask of a whole head on one MR image of any contrast.",
    head="whole-head",
    normalise="percentile",
    normalise_parameters={"low": 0.5, "high": 99.5, "of": "non-zero", "range": [0.0, 1.0]},
    accepts=(("any",),),
    minimum_volume_mm3=0.0,
    connectivity=26,
    data="Synthetic whole heads from the ICBM 152 2009a T1, grey and white matter maps (nilearn), random "
    "contrasts, skull, scalp, face and neck from analytic shapes, with and without cortical lesions. "
    "No real image was used for training.",
    how=(
        (
            "Input: one image of any contrast on a 3 mm grid in axial canonical order (axis 0 to the head, "
            "axis 1 to posterior, axis 2 to the left), the patch centred on the field of view, zeros "
            "outside the field of view."
        ),
        (
            "Voxels above zero are clipped at their 0.5 and 99.5 percentile and scaled to 0..1; "
            "zeros stay zero."
        ),
        (
            "Label: the brain with its sulci and ventricles as before any lesion, about 1 mm "
            "beyond the average brain's outline."
        ),
    ),
)
TEXTS = {"lesion": LESION, "brain": BRAIN}
"""By `Task.name`."""


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
    text = TEXTS[task.name]
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
        version,
        task.architecture.channels,
        task.grid.shape,
        task.grid.spacing_mm,
        default,
        thresholds,
        {
            **training,
            "steps": checkpoint.step,
            "minutes": round(checkpoint.seconds / 60, 1),
            "parameters": count_parameters(network),
        },
        asdict(agreement),
        flatten(table),
        peaks,
    )
    if curve is not None and curve.exists():
        shutil.copy(curve, folder / "curve.png")
    write_manifest(folder, text, numbers)
    write_card(folder, text, numbers, {"Results on held-out synthetic cases": score_table(table), **sections})
    return folder
