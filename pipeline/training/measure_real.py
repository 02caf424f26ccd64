"""Scores on real heads: brain masks against references, false lesion volume, pictures to look at.

Run: `python -m pipeline.training measure --data FOLDER --brain CHECKPOINT --lesion CHECKPOINT --out FOLDER`.
Real images are never trained on; these figures go into the cards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.evaluate.overlap import count_overlap
from pipeline.records import Volume
from pipeline.training.build import Network
from pipeline.training.pictures import draw_overlay
from pipeline.training.real_cases import RealCase, ms_cases, single_cases
from pipeline.training.synthesis.subject import HEAD_GRID, LESION_GRID, scale_by_brain_median, scale_by_percentiles
from pipeline.training.validate import predict
from pipeline.training.volumes import axial_affine, covering_grid, largest_component, predict_tiled, resample

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
BRAIN_THRESHOLD = 0.5


def as_function(network: Network) -> Callable[[Float], Float]:
    """Return the network as a function of one (channel, slice, row, column) patch."""
    return lambda patch: predict(network, torch.from_numpy(np.ascontiguousarray(patch))).numpy()


def extract_brain(network: Network, volume: Volume) -> Volume:
    """Return the brain probability of one whole head on a 3 mm axial grid."""
    affine, shape = covering_grid(volume, HEAD_GRID.spacing_mm, HEAD_GRID.shape)
    image = resample(volume, affine, shape)
    scaled = scale_by_percentiles(torch.from_numpy(image)).numpy()
    probability = predict_tiled(as_function(network), scaled[None], HEAD_GRID.shape)
    kept = largest_component(probability >= BRAIN_THRESHOLD)
    return Volume(np.where(kept, np.maximum(probability, 0.51), np.minimum(probability, 0.49)), affine, "0")


def segment(network: Network, case: RealCase, roles: tuple[str, ...], mask: Volume) -> tuple[Volume, Float]:
    """Return lesion probability on a 2 mm grid around the mask, and the network's input."""
    voxels = np.argwhere(mask.array >= BRAIN_THRESHOLD)
    middle = (voxels.min(axis=0) + voxels.max(axis=0)) / 2
    centre = (mask.affine @ [*middle, 1.0])[:3]
    affine = axial_affine(LESION_GRID.shape, LESION_GRID.spacing_mm, centre)
    inside = torch.from_numpy(resample(mask, affine, LESION_GRID.shape, smooth=False) >= BRAIN_THRESHOLD)
    channels = torch.zeros(len(network.architecture.channels), *LESION_GRID.shape)
    for role in roles:
        image = resample(case.images[role], affine, LESION_GRID.shape, target_to_source=case.links[role])
        channels[network.architecture.channels.index(role)] = scale_by_brain_median(torch.from_numpy(image), inside)
    probability = predict(network, channels).numpy() * inside.numpy()
    return Volume(probability, affine, "0"), channels.numpy()


def score_brain(case: RealCase, probability: Volume, role: str) -> dict[str, float]:
    """Return Dice, sensitivity and volumes against the reference mask, on the reference mask's own grid."""
    if case.brain is None or case.brain_link is None:
        return {"volume_ml": float((probability.array >= BRAIN_THRESHOLD).sum() * 0.027)}
    # mask mm -> reference mm -> mm of the image that was extracted
    link = case.links[role] @ np.linalg.inv(case.brain_link)
    found = resample(probability, case.brain.affine, case.brain.array.shape, smooth=False, target_to_source=link)
    seen = (
        resample(
            case.images[role].with_array(np.ones_like(case.images[role].array)),
            case.brain.affine,
            case.brain.array.shape,
            smooth=False,
            target_to_source=link,
        )
        > 0.5
    )
    truth, mask = (case.brain.array > 0.5) & seen, (found >= BRAIN_THRESHOLD) & seen
    voxel_ml = abs(np.linalg.det(case.brain.affine[:3, :3])) / 1000
    overlap = count_overlap(mask, truth)
    return {
        "dice": overlap.dice,
        "sensitivity": overlap.sensitivity,
        "precision": overlap.precision,
        "volume_ml": overlap.predicted * voxel_ml,
        "reference_ml": overlap.true * voxel_ml,
    }


def measure(data: Path, brain: Network, lesion: Network | None, out: Path, thresholds: dict[str, float]) -> list[dict[str, Any]]:
    """Measure every case in `data`, write pictures and `real.json` to `out`, and return the rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for case in itertools.chain(ms_cases(data), single_cases(data)):
        masks = {role: extract_brain(brain, volume) for role, volume in case.images.items()}
        for role, probability in masks.items():
            rows.append({"case": case.name, "what": "brain", "input": role, **score_brain(case, probability, role)})
            image = resample(case.images[role], probability.affine, probability.array.shape)
            draw_overlay(out / f"brain-{case.name}-{role}.png", image, probability.array >= BRAIN_THRESHOLD)
        if lesion is None or case.reference == "t2":
            continue
        for roles in combinations_of(case):
            name = "+".join(roles)
            found, channels = segment(lesion, case, roles, masks[case.reference])
            mask = found.array >= thresholds.get(name, 0.5)
            rows.append(
                {"case": case.name, "what": "lesion", "input": name, "found_ml": float(mask.sum() * 0.008), "stroke_free": case.stroke_free}
            )
            shown = channels[lesion.architecture.channels.index(roles[-1])]
            draw_overlay(out / f"lesion-{case.name}-{name}.png", shown, mask)
    (out / "real.json").write_text(json.dumps(rows, indent=1))
    return rows


def combinations_of(case: RealCase) -> list[tuple[str, ...]]:
    """Return the channel combinations that a case can be segmented with."""
    roles = tuple(r for r in ("t1", "flair") if r in case.images)
    # The mask lies on the reference's grid, so a single T1 of a pair is measured through its link as well.
    return [(r,) for r in roles] + ([roles] if len(roles) == 2 else [])
