"""Scores on real heads through the shipped path.

Brain masks against references, lesions found, pictures to look at.

Real images are never trained on; these figures go into the cards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.evaluate.overlap import count_overlap
from pipeline.geometry import voxel_volume_mm3
from pipeline.journal import Journal
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Volume
from pipeline.run import Segmenter, run_pipeline
from pipeline.segmenters.case import Case
from pipeline.training.pictures import draw_overlay
from pipeline.training.real_cases import RealCase, ms_cases, single_cases
from pipeline.training.volumes import axial_affine, resample

Row = dict[str, Any]
PICTURE_SHAPE, PICTURE_MM = (80, 104, 84), (2.0, 2.0, 2.0)


def measure(data: Path, recipe: Recipe, out: Path) -> list[Row]:
    """Run every head in `data`, write pictures and `real.json` to `out`, and return the rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for case in itertools.chain(ms_cases(data), single_cases(data)):
        for roles in combinations_of(case):
            rows += _measure_case(case, roles, recipe, out)
    (out / "real.json").write_text(json.dumps(rows, indent=1))
    return rows


def combinations_of(case: RealCase) -> list[tuple[str, ...]]:
    """Return the channel combinations that a case can be segmented with; a T2 has a brain only."""
    roles = tuple(r for r in ("t1", "flair") if r in case.images)
    return [(r,) for r in roles] + ([roles] if len(roles) == 2 else []) or [("t2",)]


def run_case(
    case: RealCase, roles: tuple[str, ...], recipe: Recipe, segmenter: Segmenter | None = None
) -> PipelineResult:
    """Send a case through the pipeline as a study with these roles only."""
    if roles == ("t2",):
        return run_pipeline({"flair": case.images["t2"]}, recipe, segmenter=find_nothing)
    inputs: Mapping[Any, Volume] = {role: case.images[role] for role in roles}
    return run_pipeline(inputs, recipe, segmenter=segmenter)


def find_nothing(case: Case, journal: Journal) -> Volume:
    """Stand in for the lesion network where only the brain is wanted."""
    return case.brain.soft.with_array(np.zeros(case.brain.soft.array.shape, np.float32))


def _measure_case(case: RealCase, roles: tuple[str, ...], recipe: Recipe, out: Path) -> list[Row]:
    name = "+".join(roles)
    try:
        result = run_case(case, roles, recipe)
    except PipelineError as refused:
        return [{"case": case.name, "what": "refused", "input": name, "why": str(refused)}]
    rows: list[Row] = []
    if len(roles) == 1:
        rows.append(
            {
                "case": case.name,
                "what": "brain",
                "input": name,
                **score_brain(case, result.brain_mask, roles[0]),
            }
        )
        draw_result(
            out / f"brain-{case.name}-{name}.png", case.images[roles[0]], result.brain_mask, result.brain_mask
        )
    if roles != ("t2",):
        found_ml = (
            float(np.count_nonzero(result.labels.array)) * voxel_volume_mm3(result.labels.affine) / 1000
        )
        rows.append(
            {
                "case": case.name,
                "what": "lesion",
                "input": name,
                "found_ml": found_ml,
                "stroke_free": case.stroke_free,
            }
        )
        draw_result(
            out / f"lesion-{case.name}-{name}.png",
            case.images[result.reference_role],
            result.labels,
            result.brain_mask,
        )
    return rows


def score_brain(case: RealCase, mask: Volume, role: str) -> dict[str, float]:
    """Return Dice, sensitivity and volumes against the reference mask, on the reference mask's own grid."""
    if case.brain is None or case.brain_link is None:
        return {"volume_ml": float(np.count_nonzero(mask.array)) * voxel_volume_mm3(mask.affine) / 1000}
    # mask mm -> reference mm -> mm of the image that was extracted
    link = case.links[role] @ np.linalg.inv(case.brain_link)
    grid = (case.brain.affine, case.brain.array.shape)
    resampled_mask = resample(mask, *grid, smooth=False, target_to_source=link) >= 0.5
    inside_field = (
        resample(mask.with_array(np.ones_like(mask.array)), *grid, smooth=False, target_to_source=link) > 0.5
    )
    overlap = count_overlap(resampled_mask & inside_field, (case.brain.array > 0.5) & inside_field)
    voxel_ml = voxel_volume_mm3(case.brain.affine) / 1000
    return {
        "dice": overlap.dice,
        "sensitivity": overlap.sensitivity,
        "precision": overlap.precision,
        "volume_ml": overlap.predicted * voxel_ml,
        "reference_ml": overlap.true * voxel_ml,
    }


def measure_truths(cases: Iterable[RealCase], recipe: Recipe, out: Path | None = None) -> list[Row]:
    """Run cases whose lesion is known with every combination of their channels.

    There is one row for each, with pictures when `out` is given.
    """
    rows: list[Row] = []
    for case in cases:
        for roles in combinations_of(case):
            name = "+".join(roles)
            try:
                result = run_case(case, roles, recipe)
            except PipelineError as refused:
                rows.append({"case": case.name, "input": name, "why": str(refused)})
                continue
            rows.append({"case": case.name, "input": name, **score_lesion(case, result)})
            if out is not None:
                draw_result(
                    out / f"implant-{case.name}-{name}.png",
                    case.images[result.reference_role],
                    result.labels,
                    result.brain_mask,
                )
    return rows


def score_lesion(case: RealCase, result: PipelineResult) -> dict[str, float]:
    """Return Dice and volumes on the result's own grid, and how much of the lesion the brain mask kept."""
    if case.lesion is None:
        raise ValueError(f"{case.name} has no lesion to compare with")
    grid = (result.labels.affine, result.labels.array.shape)
    link = np.linalg.inv(case.links[result.reference_role]).astype(np.float64)
    truth = resample(case.lesion, *grid, smooth=False, target_to_source=link) >= 0.5
    overlap = count_overlap(result.labels.array > 0, truth)
    voxel_ml = voxel_volume_mm3(result.labels.affine) / 1000
    return {
        "truth_ml": overlap.true * voxel_ml,
        "found_ml": overlap.predicted * voxel_ml,
        "dice": overlap.dice,
        "kept": count_overlap(result.brain_mask.array > 0, truth).sensitivity,
    }


def draw_result(path: Path, image: Volume, mask: Volume, around: Volume) -> None:
    """Draw an image with a mask that lies on its grid, on an axial grid in the middle of `around`."""
    middle = np.append(np.mean(np.argwhere(around.array > 0), axis=0), 1.0)
    affine = axial_affine(PICTURE_SHAPE, PICTURE_MM, (around.affine @ middle)[:3])
    shown_mask: npt.NDArray[np.bool_] = (
        resample(mask.with_array((mask.array > 0).astype(np.float32)), affine, PICTURE_SHAPE) >= 0.5
    )
    draw_overlay(path, resample(image, affine, PICTURE_SHAPE), shown_mask)
