"""How much of a cortical lesion the brain extractor keeps.

On fresh synthetic heads, and on real ones with a cavity painted in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.inference.session import open_network
from pipeline.plan import Recipe
from pipeline.preprocess.extract_brain import apply_brain_threshold
from pipeline.records import Volume
from pipeline.training.bounds import VALIDATION_SEED
from pipeline.training.implant import paint_cases
from pipeline.training.measure_real import combinations_of, find_nothing, run_case, score_lesion
from pipeline.training.real_cases import RealCase
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.synthesis.subject import synthesise_head_case

FIRST_SEED = VALIDATION_SEED + 500_000
SMALLEST_ML = 1.0


def measure_kept(bundle: Bundle, heads: int, threads: int = 1) -> list[dict[str, float]]:
    """Return one row for each of `heads` heads with a lesion over 1 mL.

    Its volume and the share inside the mask.
    """
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
        rows.append(
            {
                "seed": float(seed - 1),
                "lesion_ml": volume_ml,
                "kept": float((mask & lesion).sum() / lesion.sum()),
            }
        )
    return rows


def measure_kept_real(
    recipe: Recipe, cases: Sequence[RealCase], maps: Sequence[Path], lesions_each: int
) -> list[dict[str, Any]]:
    """Paint up to `each` cortical cavities into every head.

    There is one row for each image: volume and share inside the mask.

    The lesion lies inside the mask that the same extractor gave before it was painted, so all of it could be
    kept.
    """
    rows: list[dict[str, Any]] = []
    for case in paint_cases(recipe, cases, maps, lesions_each, cavities=True):
        for roles in combinations_of(case):
            if len(roles) == 1:
                scores = score_lesion(case, run_case(case, roles, recipe, find_nothing))
                rows.append(
                    {
                        "case": case.name,
                        "input": roles[0],
                        "lesion_ml": scores["truth_ml"],
                        "kept": scores["kept"],
                    }
                )
    return rows
