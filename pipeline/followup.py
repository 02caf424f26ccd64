"""The lesions of today against those of an earlier study.

The earlier image is registered to today's, and lesions that overlap are one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pipeline.geometry import Affine, apply_affine, voxel_volume_mm3
from pipeline.journal import Journal
from pipeline.plan import Recipe
from pipeline.preprocess.extract_brain import Brain, apply_brain_threshold, find_brain_problem
from pipeline.preprocess.register import apply_registration, plan_registration
from pipeline.preprocess.reorient import apply_orientation, plan_orientation
from pipeline.preprocess.resample import plan_mask_grid, sample_linear
from pipeline.records import Array, Change, Earlier, FollowUp, LesionChange, PipelineResult, Volume
from pipeline.run import extract_brains

SMALLEST_OVERLAP = 0.1
"""Share of the smaller of two lesions that the other must cover."""
CHANGED_SHARE = 0.25
CHANGED_ML = 0.2
"""Both must be passed before a volume counts as changed: less is within what slices and thresholds do.

Chosen, not measured on rescans.
"""
BRAIN_SPACING_MM = 3.0


def follow_up(result: PipelineResult, reference: Volume, earlier: Earlier, recipe: Recipe) -> PipelineResult:
    """Return the result with what became of each lesion of the earlier study.

    Parameters
    ----------
    reference
        Today's reference image, on whose grid the result lies.

    Raises
    ------
    PipelineError
        There is no brain in the earlier image, or it does not come onto today's.
    """
    journal = Journal(steps=list(result.steps), findings=list(result.findings))
    with journal.step("follow_up") as parameters:
        link, registration_facts = _register(result, reference, earlier, recipe)
        changes = compare_lesions(result.labels, earlier.labels, link, earlier.tracking_uids)
        parameters.update(
            registration_facts, changes=[change.kind for change in changes], earlier=earlier.identity
        )
    return replace(
        result,
        steps=tuple(journal.steps),
        follow_up=FollowUp(earlier.identity, earlier.date, changes),
    )


def compare_lesions(
    labels: Volume, earlier: Volume, link: Affine, tracking_uids: dict[int, str]
) -> tuple[LesionChange, ...]:
    """Return what became of each lesion: today's by label, then those that are gone.

    Lesions that merged or split are judged by the sum of their volumes; the largest piece keeps the tracking
    UID.

    Parameters
    ----------
    labels, earlier
        Label maps 1..N, each on its own grid.
    link
        4x4 from today's mm to the earlier image's mm.
    tracking_uids
        Earlier label to Tracking UID.
    """
    today_voxels = _place_labels(labels, earlier, link)
    earlier_voxels = _place_labels(earlier, labels, np.linalg.inv(link).astype(np.float64))
    volumes = {
        label: np.count_nonzero(labels.array == label) * voxel_volume_mm3(labels.affine) / 1000
        for label in today_voxels
    }
    before = {
        label: np.count_nonzero(earlier.array == label) * voxel_volume_mm3(earlier.affine) / 1000
        for label in earlier_voxels
    }
    shared: dict[tuple[int, int], float] = {}
    for label, overlap in today_voxels.items():
        for old in np.unique(overlap[overlap > 0]).tolist():
            # Counted from both sides: a lesion thinner than the other grid's slices falls between its voxel
            # centres.
            share = (
                max(float(np.mean(overlap == old)), float(np.mean(earlier_voxels[old] == label)))
                if old in earlier_voxels
                else float(np.mean(overlap == old))
            )
            if share >= SMALLEST_OVERLAP:
                shared[label, old] = float(np.mean(overlap == old)) * volumes[label]
    changes = []
    continued: set[int] = set()
    for label in sorted(today_voxels, key=lambda change: -volumes[change]):
        group, olds = _group(label, shared)
        kind = (
            _judge(sum(volumes[change] for change in group), sum(before[old] for old in olds))
            if olds
            else "new"
        )
        best = max(
            (old for change, old in shared if change == label),
            key=lambda old: shared[label, old],
            default=None,
        )
        uid = tracking_uids.get(best, "") if best is not None and best not in continued else ""
        if best is not None:
            continued.add(best)
        changes.append(
            LesionChange(
                kind, label, tuple(sorted(olds)), uid, volumes[label], sum(before[old] for old in olds)
            )
        )
    matched = {old for _, old in shared}
    for old in sorted(set(earlier_voxels) - matched):
        kind = "gone" if float(np.mean(earlier_voxels[old] >= 0)) >= 0.5 else "not imaged"
        changes.append(LesionChange(kind, None, (old,), tracking_uids.get(old, ""), 0.0, before[old]))
    return tuple(sorted(changes, key=lambda change: (change.label is None, change.label or 0)))


def _register(
    result: PipelineResult, reference: Volume, earlier: Earlier, recipe: Recipe
) -> tuple[Affine, dict[str, Any]]:
    today = apply_orientation(reference, plan_orientation(reference))
    before = apply_orientation(earlier.image, plan_orientation(earlier.image))
    brain = extract_brains({result.reference_role: before}, recipe, result.plan, Journal())[
        result.reference_role
    ]
    if (problem := find_brain_problem(brain)) is not None:
        raise problem
    today_voxels = _coarse_brain(result.brain_mask)
    same_frame = earlier.image.frame_of_reference_uid == reference.frame_of_reference_uid
    registration_facts = apply_registration(
        plan_registration(today_voxels, brain, same_frame=same_frame), today, before, today_voxels, brain
    )
    return registration_facts.link, {**asdict(registration_facts), "link": registration_facts.link.tolist()}


def _coarse_brain(mask: Volume) -> Brain:
    """Return the brain of a result on cubes as large as an extractor's."""
    upright = apply_orientation(mask, plan_orientation(mask))
    grid = plan_mask_grid(upright, (BRAIN_SPACING_MM,) * 3, (1, 1, 1))
    return apply_brain_threshold(grid.fill(sample_linear(upright, grid)), 0.5)


def _place_labels(labels: Volume, other_labels: Volume, link: Affine) -> dict[int, Array]:
    """Return for each lesion what the other map says at its voxels.

    A label, 0 for none, -1 outside the image.
    """
    voxels = np.argwhere(labels.array > 0)
    other_index = np.rint(
        apply_affine(np.linalg.inv(other_labels.affine) @ link @ labels.affine, voxels)
    ).astype(np.intp)
    inside = ((other_index >= 0) & (other_index < other_labels.array.shape)).all(axis=1)
    overlap = np.full(len(voxels), -1, np.int64)
    overlap[inside] = other_labels.array[tuple(other_index[inside].T)]
    own_labels = labels.array[tuple(voxels.T)]
    return {int(label): overlap[own_labels == label] for label in np.unique(own_labels)}


def _group(label: int, shared: dict[tuple[int, int], float]) -> tuple[set[int], set[int]]:
    """Return today's and the earlier lesions that hang together with one of today's."""
    partners: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
    for new, old in shared:
        partners["new", new].add(("old", old))
        partners["old", old].add(("new", new))
    registration_facts, waiting = {("new", label)}, [("new", label)]
    while waiting:
        for partner in partners[waiting.pop()] - registration_facts:
            registration_facts.add(partner)
            waiting.append(partner)
    return {number for kind, number in registration_facts if kind == "new"}, {
        number for kind, number in registration_facts if kind == "old"
    }


def _judge(volume_ml: float, earlier_ml: float) -> Change:
    difference = volume_ml - earlier_ml
    if abs(difference) < CHANGED_ML or abs(difference) < CHANGED_SHARE * earlier_ml:
        return "unchanged"
    return "grown" if difference > 0 else "shrunk"
