"""Validation through the shipped path.

Whole synthetic heads through `run_pipeline` with the exported bundles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.plan import Recipe
from pipeline.records import Volume
from pipeline.training.bounds import VALIDATION_SEED
from pipeline.training.measure_real import Row, measure_truths
from pipeline.training.real_cases import RealCase
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.synthesis.subject import WHOLE_GRID, synthesise_whole_head
from pipeline.training.volumes import axial_affine

WHOLE_SEED = VALIDATION_SEED + 800_000


def synthetic_heads(count: int, maps: Sequence[Path], first: int = WHOLE_SEED) -> Iterator[RealCase]:
    """Yield whole synthetic heads, T1 and FLAIR on one grid, with their lesions as truth."""
    anatomy = load_anatomy()
    affine = axial_affine(WHOLE_GRID.shape, WHOLE_GRID.spacing_mm, (0.0, 0.0, 0.0))
    for seed in range(first, first + count):
        case_made = synthesise_whole_head(anatomy, seed, maps)
        images = {
            role: Volume(image.numpy().astype(np.float32), affine, "0")
            for role, image in zip(("t1", "flair"), case_made.image, strict=True)
        }
        truth = Volume(case_made.label.numpy().astype(np.float32), affine, "0")
        yield RealCase(f"synthetic-{seed}", images, "flair", dict.fromkeys(images, np.eye(4)), lesion=truth)


def validate_bundle(recipe: Recipe, count: int, maps: Sequence[Path]) -> list[Row]:
    """Run `count` whole heads with every combination of channels; one row for each."""
    return measure_truths(synthetic_heads(count, maps), recipe)


def whole_head_table(rows: Sequence[Row]) -> str:
    """Return mean figures for each combination as Markdown."""
    lines = [
        "| input | heads | refused | Dice | Dice of lesions over 1 mL | lesion inside the brain mask |",
        "| --- |" + " --- |" * 5,
    ]
    for name in dict.fromkeys(row["input"] for row in rows):
        input_rows = [row for row in rows if row["input"] == name]
        scored_rows = [row for row in input_rows if "dice" in row]
        large = [row for row in scored_rows if row["truth_ml"] > 1.0]
        means = [
            _mean([row["dice"] for row in scored_rows]),
            _mean([row["dice"] for row in large]),
            _mean([row["kept"] for row in large]),
        ]
        lines.append(
            f"| {name} | {len(input_rows)} | {len(input_rows) - len(scored_rows)} | "
            + " | ".join(means)
            + " |"
        )
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" if values else ""
