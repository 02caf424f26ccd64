"""The demonstration study.

It is one synthetic whole head as T1 and FLAIR on their own grids, with lesions that are known.

Deterministic: same seed, same voxels. The values are ready for int16 DICOM.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.training.synthesis.acquisition import Scan, acquire
from pipeline.training.synthesis.anatomy import Anatomy, load_anatomy
from pipeline.training.synthesis.appearance import Lesion, draw_lesion_state, draw_look_alikes, paint
from pipeline.training.synthesis.contrast import Contrast
from pipeline.training.synthesis.deformation import BRAIN_CENTRE_MM, draw_coordinates
from pipeline.training.synthesis.fields import Dice, Grid, apply_along, gaussian_matrix
from pipeline.training.synthesis.head import draw_head
from pipeline.training.synthesis.lesions import draw_procedural
from pipeline.training.synthesis.tissue import draw_brain
from pipeline.training.volumes import axial_affine, resample

DEMO_SEED = 20260
T1_GRID = Grid((136, 148, 116), (1.5, 1.5, 1.5))
FLAIR_SHAPE, FLAIR_SPACING_MM = (34, 176, 140), (4.8, 1.25, 1.25)
FLAIR_SHIFT_MM, FLAIR_TILT_DEG = (1.2, -2.0, 1.5), 3.0
FRAME_OFFSET_MM = (2.0, 14.0, -9.0)


@dataclass(frozen=True)
class Planned:
    """One lesion of the demonstration.

    Where (template mm: up, to posterior, to the left), how large, with cavity.
    """

    name: str
    at_mm: tuple[float, float, float]
    volume_ml: float
    cavity: bool


LESIONS = (
    Planned("left fronto-parietal, chronic with cavity", (28.0, 8.0, 46.0), 30.0, True),
    Planned("right occipital, sub-acute", (6.0, 78.0, -24.0), 8.0, False),
    Planned("right deep white matter, sub-acute", (24.0, 6.0, -24.0), 1.5, False),
)

T1_MEANS = Contrast(
    "t1",
    {
        "white": 1.0,
        "cortex": 0.72,
        "deep": 0.82,
        "csf": 0.2,
        "fat": 1.5,
        "muscle": 0.55,
        "bone": 0.06,
        "marrow": 0.9,
        "mucosa": 0.6,
        "eye": 0.22,
        "vessel": 0.4,
        "air": 0.005,
    },
)
FLAIR_MEANS = Contrast("flair", {
    "white": 0.8, "cortex": 1.0, "deep": 0.94, "csf": 0.16, "fat": 1.1, "muscle": 0.5, "bone": 0.06,
    "marrow": 0.6, "mucosa": 1.1, "eye": 0.15, "vessel": 0.2, "air": 0.005})  # fmt: skip


def write_demo(folder: Path, seed: int = DEMO_SEED) -> dict[str, Any]:
    """Write t1.nii.gz, flair.nii.gz, truth.nii.gz (on the T1 grid) and lesions.json to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = Dice(seed)
    t1, flair, truth, lesions = _synthesise(load_anatomy(), dice)
    centre = np.array(FRAME_OFFSET_MM)
    fine = axial_affine(T1_GRID.shape, T1_GRID.spacing_mm, centre)
    _write_sagittal(folder / "t1.nii.gz", _to_int16(t1), fine)
    _write_sagittal(folder / "truth.nii.gz", truth, fine)
    thick, affine = _cut_flair(flair, fine, centre)
    _write_nifti(folder / "flair.nii.gz", _to_int16(thick), affine)
    facts = {
        "seed": seed,
        "lesions": [
            {
                "label": n + 1,
                "name": p.name,
                "volume_ml": round(lesion.shape.volume_ml, 2),
                "cavity": p.cavity,
            }
            for n, (p, lesion) in enumerate(zip(LESIONS, lesions, strict=True))
        ],
    }
    (folder / "lesions.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def _synthesise(anatomy: Anatomy, dice: Dice) -> tuple[Tensor, Tensor, npt.NDArray[np.int16], list[Lesion]]:
    """Return ideal-to-acquired T1 and FLAIR and the label map, all on the T1 grid."""
    centre = (BRAIN_CENTRE_MM[0] - 17.0, BRAIN_CENTRE_MM[1] - 10.0, 0.0)
    positions = draw_coordinates(anatomy, T1_GRID, dice, centre_mm=centre)
    brain = draw_brain(anatomy, positions, T1_GRID, dice)
    lesions = []
    truth = np.zeros(T1_GRID.shape, np.int16)
    for number, planned in enumerate(LESIONS):
        shape = draw_procedural(brain, T1_GRID, dice, planned.volume_ml, at_mm=planned.at_mm)
        if shape is None:
            raise ValueError(f"the head of this seed has no room for {planned.name}: choose another seed")
        lesions.append(draw_lesion_state(shape, T1_GRID, dice, cavity=planned.cavity))
        truth[shape.mask.numpy()] = number + 1
    layers, look_alikes = draw_head(brain, T1_GRID, dice), draw_look_alikes(brain, T1_GRID, dice)
    images = []
    for means in (T1_MEANS, FLAIR_MEANS):
        ideal = paint(brain, layers, lesions, means, T1_GRID, dice, look_alikes)
        scan = Scan(-1, 1.5, False, (0.0, 1.0), 0.35, 0.012, 0.1, 1.0, moves=False)
        images.append(acquire(ideal, T1_GRID, scan, dice))
    return images[0], images[1], truth, lesions


def _cut_flair(
    image: Tensor, fine: npt.NDArray[np.float64], centre: npt.NDArray[np.float64]
) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """Average over the slice thickness and sample on the FLAIR's own, tilted and shifted grid."""
    from pipeline.records import Volume

    sigma = FLAIR_SPACING_MM[0] / T1_GRID.spacing_mm[0] * 0.35
    slab = apply_along(image, gaussian_matrix(T1_GRID.shape[0], sigma), 0)
    affine = axial_affine(FLAIR_SHAPE, FLAIR_SPACING_MM, (0, 0, 0))
    angle = np.deg2rad(FLAIR_TILT_DEG)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = centre + np.array(FLAIR_SHIFT_MM) + (0.0, 0.0, 18.0)
    affine = turn @ affine
    return torch.from_numpy(
        resample(Volume(slab.numpy(), fine, "0"), affine, FLAIR_SHAPE, smooth=False)
    ), affine


def _to_int16(image: Tensor) -> npt.NDArray[np.int16]:
    """Scale so that bright tissue lies near 1000."""
    return np.clip(np.round(image.numpy() * 600.0), 0, 4095).astype(np.int16)


def _write_sagittal(path: Path, array: npt.NDArray[np.int16], affine: npt.NDArray[np.float64]) -> None:
    """Store an axial canonical array as sagittal slices.

    Slice to the left, row to the feet, column to posterior.
    """
    count = array.shape[0]
    flip = np.array([[0, -1, 0, count - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)
    _write_nifti(path, np.ascontiguousarray(array[::-1].transpose(2, 0, 1)), affine @ flip)


def _write_nifti(path: Path, array: npt.NDArray[np.int16], affine: npt.NDArray[np.float64]) -> None:
    """Write (slice, row, column) with its LPS affine as NIfTI (column, row, slice), RAS."""
    import nibabel

    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine @ np.eye(4)[[2, 1, 0, 3]]
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), ras)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)


def describe(facts: dict[str, Any], remarks: Sequence[str] = ()) -> str:
    """Return the text that goes beside the files."""
    rows = [
        f"| {f['label']} | {f['name']} | {f['volume_ml']} | {'yes' if f['cavity'] else 'no'} |"
        for f in facts["lesions"]
    ]
    size = f"{FLAIR_SPACING_MM[1]} x {FLAIR_SPACING_MM[2]} x {FLAIR_SPACING_MM[0]} mm"
    images = (
        f"One synthetic head, seed {facts['seed']}; no patient. T1: sagittal, 1.5 mm. "
        f"FLAIR: axial, {size}, tilted {FLAIR_TILT_DEG} degrees and shifted."
    )
    lines = [
        "# Synthetic demonstration study",
        "",
        images,
        "",
        "| label | lesion | mL | cavity |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *rows, "", *remarks, ""])
