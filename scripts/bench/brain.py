"""Compare our brain extractor with mindgrab (MIT, a MeshNet of 146,237 parameters).

    python -m scripts.bench.brain --data DIR --weights DIR --out FOLDER

Prints a row for each real head: Dice between the two masks, Dice of each against the reference mask where
there is one, and CPU seconds from the image to a mask on the image's own grid. Needs the extra `train`; heads
and weights are no part of the project.

mindgrab is re-executed from its published TensorFlow.js weights: 25 convolutions of 3x3x3 with dilation 16,
8, 4, 2, 1, each followed by instance normalisation without gain and by GELU, then one of 1x1x1 to two
classes. Its input is a conformed head (256^3, 1 mm; axes to the left, down, to the front) clipped at its 2
and 98 percentile and scaled to 0..1. Of its mask the largest piece counts, holes filled, as ours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from dicomnode.answer import SHIPPED_MODELS
from pipeline.evaluate.overlap import count_overlap
from pipeline.geometry import grid_of, voxel_volume_mm3
from pipeline.journal import Journal
from pipeline.plan import Recipe, make_plan
from pipeline.preprocess.extract_brain import apply_brain_threshold
from pipeline.preprocess.reorient import apply_orientation, plan_orientation
from pipeline.preprocess.resample import sample_linear
from pipeline.records import Role, Volume
from pipeline.run import extract_brains
from pipeline.segmenters.families import find_bundle
from pipeline.training.measure_real import score_brain
from pipeline.training.real_cases import RealCase, ms_cases, single_cases
from pipeline.training.volumes import resample

SIZE = 256
DILATIONS = (16, 8, 4, 2, 1) * 5
CONFORMED = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]]).T
"""Directions of the three axes in LPS: to the left, down, to the front."""

Float = npt.NDArray[np.float32]
Row = dict[str, Any]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of `model.bin`, convolutions as (out, in, 3, 3, 3)."""
    listed = json.loads((folder / "model.json").read_text())["weightsManifest"][0]["weights"]
    flat, start, tensors = np.fromfile(folder / "model.bin", dtype="<f4"), 0, {}
    for entry in listed:
        count = int(np.prod(entry["shape"]))
        tensor = torch.from_numpy(flat[start : start + count].reshape(entry["shape"]).copy())
        tensors[entry["name"]] = tensor.permute(4, 3, 0, 1, 2).contiguous() if tensor.ndim == 5 else tensor
        start += count
    if start != flat.size:
        raise SystemExit(f"{folder}: model.bin holds {flat.size} numbers, model.json names {start}")
    return tensors


@torch.inference_mode()
def run_mindgrab(weights: dict[str, Tensor], image: Float) -> Float:
    """Return the brain's probability on the conformed grid."""
    x = torch.from_numpy(image)[None, None]
    for number, dilation in enumerate(DILATIONS):
        x = functional.conv3d(x, weights[f"conv3d_{number}_gn/kernel"], padding=dilation, dilation=dilation)
        x = functional.gelu(functional.instance_norm(x))
    logits = functional.conv3d(x, weights["output/kernel"], weights["output/bias"])
    probability: Float = torch.sigmoid(logits[0, 1] - logits[0, 0]).numpy()
    return probability


def extract_with_mindgrab(weights: dict[str, Tensor], volume: Volume) -> Volume:
    """Return mindgrab's mask on the image's own grid."""
    middle = volume.affine @ np.append((np.array(volume.array.shape) - 1) / 2, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = CONFORMED
    affine[:3, 3] = middle[:3] - CONFORMED @ np.full(3, (SIZE - 1) / 2)
    conformed = resample(volume, affine, (SIZE, SIZE, SIZE))
    low, high = np.quantile(conformed, (0.02, 0.98))
    scaled = np.clip((conformed - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    brain = apply_brain_threshold(
        Volume(run_mindgrab(weights, scaled), affine, volume.frame_of_reference_uid), 0.5
    )
    return volume.with_array((sample_linear(brain.soft, grid_of(volume)) >= brain.threshold).astype(np.uint8))


def extract_with_ours(recipe: Recipe, volume: Volume, role: Role) -> Volume:
    """Return our mask on the image's own grid, by the node's own steps."""
    image = apply_orientation(volume, plan_orientation(volume))
    brain = extract_brains({role: image}, recipe, make_plan(recipe, [role]), Journal())[role]
    return volume.with_array((sample_linear(brain.soft, grid_of(volume)) >= brain.threshold).astype(np.uint8))


def compare(case: RealCase, name: str, recipe: Recipe, weights: dict[str, Tensor]) -> Row:
    """Return one head's figures."""
    volume, role = case.images[name], "t1" if name == "t1" else "flair"
    began = time.process_time()
    ours = extract_with_ours(recipe, volume, role)  # type: ignore[arg-type]
    between = time.process_time()
    theirs = extract_with_mindgrab(weights, volume)
    ended = time.process_time()
    overlap = count_overlap(ours.array > 0, theirs.array > 0)
    voxel_ml = voxel_volume_mm3(volume.affine) / 1000
    row = {
        "case": case.name, "input": name, "dice": overlap.dice,
        "ours_ml": overlap.predicted * voxel_ml, "mindgrab_ml": overlap.true * voxel_ml,
        "ours_cpu_s": between - began, "mindgrab_cpu_s": ended - between,
    }  # fmt: skip
    if case.brain is not None:
        row |= {
            "ours_reference": score_brain(case, ours, name)["dice"],
            "mindgrab_reference": score_brain(case, theirs, name)["dice"],
        }
    return row


def choose_cases(data: Path, each: int) -> Iterator[tuple[RealCase, str]]:
    """Yield the heads without a reference, then `each` images of every MS patient."""
    for case in single_cases(data):
        yield case, case.reference
    for _, studies in itertools.groupby(ms_cases(data), key=lambda case: case.name.split("-")[0]):
        yield from itertools.islice(((case, name) for case in studies for name in case.images), each)


def main() -> None:
    """Print a row of JSON for each head as it is done, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of real heads, as in pipeline.training.real_cases"
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="folder with mindgrab's model.json and model.bin"
    )
    parser.add_argument("--out", type=Path, required=True, help="file for the rows (JSON)")
    parser.add_argument("--brain", default="brain-extractor-3mm", help="NAME or NAME/VERSION")
    parser.add_argument("--each", type=int, default=1, help="images of each MS patient")
    parser.add_argument("--only", nargs="*", help="names of heads; all when absent")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        find_bundle(SHIPPED_MODELS, "stroke-lesion-2mm"),
        find_bundle(SHIPPED_MODELS, options.brain),
        threads=options.threads,
    )
    weights, rows = read_weights(options.weights), []
    for case, name in choose_cases(options.data, options.each):
        if options.only and case.name not in options.only:
            continue
        rows.append(compare(case, name, recipe, weights))
        print(json.dumps(rows[-1]), flush=True)
        options.out.write_text(json.dumps(rows, indent=1))
    ratio = np.median([row["mindgrab_cpu_s"] / row["ours_cpu_s"] for row in rows])
    alone = [row["dice"] for row in rows if "ours_reference" not in row]
    print(
        f"{len(rows)} images; Dice of the two masks on the {len(alone)} heads without a reference: "
        f"{np.mean(alone):.3f}; {ratio:.0f} times faster (median)"
    )


if __name__ == "__main__":
    main()
