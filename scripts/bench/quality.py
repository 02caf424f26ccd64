"""What the quality gates see on real heads and on the generator's.

    python -m scripts.bench.quality --data DIR

The tables of docs/quality-gates.md, and the ranges that a bundle's `[trained]` table holds. Needs the extra
`train`.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from dicomnode.answer import SHIPPED_MODELS
from pipeline.geometry import grid_of, spacing_mm
from pipeline.journal import Journal
from pipeline.measure.midplane import find_midplane
from pipeline.plan import Recipe, make_plan
from pipeline.preprocess.reorient import apply_orientation, plan_orientation
from pipeline.preprocess.resample import sample_linear
from pipeline.quality.gates import measure_quality
from pipeline.quality.trained_range import QUANTILES, measure_quantiles, take_core
from pipeline.records import Role, Volume
from pipeline.run import extract_brains
from pipeline.segmenters.families import find_bundle

FIRST_SEED = 5_000_000
"""Subjects that no training run and no validation draws."""


def judge(name: str, role: Role, volume: Volume, recipe: Recipe) -> None:
    """Print one row of the table of real heads."""
    image = apply_orientation(volume, plan_orientation(volume))
    brain = extract_brains({role: image}, recipe, make_plan(recipe, [role]), Journal())[role]
    quality = measure_quality(image, brain, recipe.lesion.input.spacing_mm)
    inside = sample_linear(brain.soft, grid_of(image)) >= brain.threshold
    plane = find_midplane(image, image.with_array(inside.astype(np.uint8)))
    ghosting = "-" if quality.ghosting is None else f"{100 * quality.ghosting:.2f}"
    quantiles = " | ".join(f"{quality.quantiles[key]:.2f}" for key in QUANTILES)
    spacing = " x ".join(f"{size:.1f}" for size in spacing_mm(image.affine))
    cells = (name, role, spacing, f"{quality.brain_ml:.0f}", f"{quality.snr:.1f}", ghosting, quantiles)
    print(f"| {' | '.join(cells)} | {plane.symmetry:.2f} | {plane.tilt_deg:.1f} |", flush=True)


def judge_synthetic(count: int, maps_folder: Path) -> None:
    """Print the range of each statistic over subjects of the generator."""
    from pipeline.training.synthesis.anatomy import load_anatomy
    from pipeline.training.synthesis.lesion_maps import list_maps
    from pipeline.training.synthesis.subject import synthesise_lesion_case

    anatomy, maps = load_anatomy(), list_maps(maps_folder, held_out=False)
    seen: dict[str, list[dict[str, float]]] = {"t1": [], "flair": []}
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        image = synthesise_lesion_case(anatomy, seed, maps).image.numpy()
        for number, role in enumerate(seen):
            core = take_core(np.pad(image[number] > 0, 1), 2.0)[1:-1, 1:-1, 1:-1]
            seen[role].append(measure_quantiles(image[number], core))
    for role, key in itertools.product(seen, QUANTILES):
        values = np.array([each[key] for each in seen[role] if each])
        cells = " | ".join(f"{np.percentile(values, rank):.3f}" for rank in (0, 2.5, 50, 97.5, 100))
        print(f"| {role} | {key} | {cells} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of real heads, as in pipeline.training.real_cases"
    )
    parser.add_argument(
        "--synthetic", type=int, default=0, help="how many subjects of the generator to measure instead"
    )
    options = parser.parse_args()
    if options.synthetic:
        judge_synthetic(options.synthetic, options.data / "stroke-lesion-maps")
        return
    from pipeline.training.real_cases import ms_cases, single_cases

    recipe = Recipe(
        find_bundle(SHIPPED_MODELS, "stroke-lesion-2mm"), find_bundle(SHIPPED_MODELS, "brain-extractor-3mm")
    )
    for case in itertools.chain(single_cases(options.data), itertools.islice(ms_cases(options.data), 12)):
        for role, volume in case.images.items():
            # A T2 stands in for a FLAIR: what the gates say of the wrong contrast.
            judge(case.name, "t1" if role == "t1" else "flair", volume, recipe)


if __name__ == "__main__":
    main()
