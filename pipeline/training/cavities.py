"""How much of a cortical lesion the brain extractor keeps, on fresh synthetic heads whose lesion is known."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.bundle import Bundle
from pipeline.inference.session import open_network
from pipeline.preprocess.extract_brain import apply_brain_threshold
from pipeline.records import Volume
from pipeline.training.pool import VALIDATION_SEED
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.synthesis.subject import synthesise_head_case

FIRST_SEED = VALIDATION_SEED + 500_000
SMALLEST_ML = 1.0


def measure_kept(bundle: Bundle, heads: int, threads: int = 1) -> list[dict[str, float]]:
    """Return one row for each of `heads` heads with a lesion over 1 mL: its volume and the share inside the mask."""
    rows: list[dict[str, float]] = []
    network = open_network(bundle, threads)
    anatomy, seed = load_anatomy(), FIRST_SEED
    while len(rows) < heads:
        case = synthesise_head_case(anatomy, seed)
        seed += 1
        lesion = torch.zeros_like(case.label)
        for shape in case.lesions:
            lesion |= shape.mask
        # Only what the field of view shows can be kept.
        lesion &= case.label
        volume_ml = float(lesion.sum()) * 0.027
        if volume_ml < SMALLEST_ML:
            continue
        probability = Volume(network(case.image.numpy())[0], np.diag([3.0, 3.0, 3.0, 1.0]), "0")
        mask = torch.from_numpy(apply_brain_threshold(probability, bundle.output.threshold).mask.array > 0)
        rows.append({"seed": float(seed - 1), "lesion_ml": volume_ml, "kept": float((mask & lesion).sum() / lesion.sum())})
    return rows
