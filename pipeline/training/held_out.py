"""A bundle on held-out samples.

What it finds, at its own thresholds and minimum volume, through the family that its manifest names.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.bundles.bundle import Bundle
from pipeline.inference.voting import majority, move_threshold
from pipeline.plan import plan_network
from pipeline.postprocess.components import apply_components, apply_peak
from pipeline.postprocess.threshold import apply_threshold
from pipeline.records import FloatArray
from pipeline.segmenters.ensemble.spec import EnsembleSpec, choose_members
from pipeline.segmenters.families import infer_channels
from pipeline.training.graph_set import sample_channels
from pipeline.training.pool import read_sample, read_shown
from pipeline.training.problem import TrainingProblem
from pipeline.training.score import (
    THRESHOLDS,
    Bool,
    CaseScore,
    Cut,
    Predict,
    score_case,
    settle_cut,
    summarise,
)
from pipeline.training.tasks import Task, keep_channels

LEVEL = 0.5
"""Where the finished mask, which holds 0 and 1, is cut once more to be scored."""


@dataclass(frozen=True)
class HeldOutScore:
    """One sample with one combination of channels ("t1+flair").

    It holds the processor seconds that its networks took, and the score of what shows in the given channels:
    None for a sample that does not say so.
    """

    sample: str
    combination: str
    score: CaseScore
    processor_s: float
    shown: CaseScore | None = None

    @property
    def dice(self) -> float:
        """Dice of the finished mask and the truth; 1 when both are empty."""
        return self.score.dice[LEVEL]


def score_bundle(
    bundle: Bundle, task: Task, paths: Sequence[Path], threads: int = 1
) -> Iterator[HeldOutScore]:
    """Yield the score of every sample with every combination that the bundle accepts, sample by sample.

    Raises
    ------
    TrainingProblem
        The bundle does not take the task's samples, or a sample is not one of them.
    """
    _check(bundle, task)
    for path in paths:
        image, label = read_sample(path)
        if tuple(label.shape) != task.grid.shape:
            raise TrainingProblem(
                f"{path}: {tuple(label.shape)} voxels; samples of this task have {task.grid.shape}"
            )
        for roles in bundle.input.accepts:
            visible = keep_channels(image, bundle.channels, "+".join(roles))
            # What no given channel shows cannot be asked for.
            truth = ((label > 0.5) & (visible != 0).any(dim=0)).numpy()
            started = time.process_time()
            probability = answer_sample(bundle, visible.numpy(), roles, threads)
            spent = time.process_time() - started
            threshold, connectivity = bundle.output.threshold_for(roles), bundle.output.connectivity
            above_threshold = apply_threshold(
                apply_peak(probability, threshold, bundle.output.peak_for(roles), connectivity)[0], threshold
            )
            large_enough, _ = apply_components(
                above_threshold, connectivity, bundle.output.minimum_volume_mm3, task.grid.voxel_ml * 1000
            )
            score = score_case((large_enough > 0).astype(np.float32), truth, LEVEL, task.grid.voxel_ml)
            in_channels = _show_in(path, bundle.channels, roles)
            yield HeldOutScore(
                path.stem,
                "+".join(roles),
                score,
                spent,
                None if in_channels is None else _score_shown(large_enough > 0, truth, in_channels, task),
            )


def _show_in(path: Path, channels: Sequence[str], roles: Sequence[str]) -> Bool | None:
    """Return where the lesions of a sample show in any of these channels."""
    shown = read_shown(path)
    indices = [number for number, channel in enumerate(channels) if channel in roles]
    return None if shown is None else shown[indices].any(dim=0).numpy()


def _score_shown(marked: Bool, truth: Bool, shown: Bool, task: Task) -> CaseScore:
    """Score what shows; what is found of a lesion where it does not show is neither right nor wrong."""
    hidden = truth & ~shown
    return score_case((marked & ~hidden).astype(np.float32), truth & shown, LEVEL, task.grid.voxel_ml)


def settle_bundle(bundle: Bundle, task: Task, paths: Sequence[Path], threads: int = 1) -> dict[str, Cut]:
    """Return for each combination that the bundle accepts the cut with the best mean Dice on the samples.

    The members of an ensemble answer at their own thresholds, which are moved onto the ensemble's wherever
    that lies: there the peak alone is settled.

    Raises
    ------
    TrainingProblem
        The bundle does not take the task's samples.
    """
    _check(bundle, task)

    def predictor(roles: Sequence[str]) -> Predict:
        return lambda image: answer_sample(bundle, image, roles, threads)

    cuts = {}
    for roles in bundle.input.accepts:
        fixed = isinstance(bundle.family_spec, EnsembleSpec)
        thresholds = (bundle.output.threshold_for(roles),) if fixed else THRESHOLDS
        cuts["+".join(roles)] = settle_cut(predictor(roles), task, paths, "+".join(roles), thresholds)
    return cuts


def _check(bundle: Bundle, task: Task) -> None:
    name = f"{bundle.name}/{bundle.version}"
    if bundle.task != task.name:
        raise TrainingProblem(
            f"{name} was made for the task {bundle.task!r}, the samples are of {task.name!r}"
        )
    for member in (bundle, *bundle.members):
        if member.segmenter == "nnunet":
            raise TrainingProblem(
                f"{member.name} prepares its images by nnU-Net's rules, the samples are prepared by "
                "ours: leave --samples away"
            )
        if member.channels != task.architecture.channels or member.input.spacing_mm != task.grid.spacing_mm:
            raise TrainingProblem(
                f"{member.name} takes {member.channels} at {member.input.spacing_mm} mm; "
                f"the samples hold {task.architecture.channels} at {task.grid.spacing_mm} mm"
            )


def answer_sample(bundle: Bundle, image: FloatArray, roles: Sequence[str], threads: int = 1) -> FloatArray:
    """Return the probability on one prepared sample; an ensemble's members answer at their own thresholds."""
    common = bundle.output.threshold_for(roles)
    if not isinstance(bundle.family_spec, EnsembleSpec):
        plan = plan_network(bundle, (), threshold=common, threads=threads)
        return infer_channels(bundle, sample_channels(image), plan)[0].probability.array
    maps = [
        move_threshold(answer_sample(member.bundle, image, roles, threads), member.threshold, common)
        for member in choose_members(bundle, roles)
    ]
    stacked = np.stack(maps)
    return majority(stacked) if bundle.family_spec.rule == "vote" else stacked.mean(axis=0, dtype=np.float32)


def summarise_bundle(bundle: Bundle, rows: Sequence[HeldOutScore]) -> dict[str, dict[str, float]]:
    """Return the figures by combination.

    Those of `score.summarise`, the volume's error and bias, and the seconds of one sample.
    """
    table = {}
    for name in dict.fromkeys(row.combination for row in rows):
        combination_rows = [row for row in rows if row.combination == name]
        scores = [row.score for row in combination_rows]
        apart = np.array([score.found_ml - score.truth_ml for score in scores])
        table[name] = {
            "threshold": bundle.output.threshold_for(name.split("+")),
            "peak": bundle.output.peak_for(name.split("+")), **summarise(scores, LEVEL),
            "error_ml": float(np.abs(apart).mean()), "bias_ml": float(apart.mean()),
            "processor_s": float(np.median([row.processor_s for row in combination_rows])),
        }  # fmt: skip
        table[name] |= _summarise_shown([row.shown for row in combination_rows if row.shown is not None])
    return table


def _summarise_shown(scores: Sequence[CaseScore]) -> dict[str, float]:
    """Return the figures of what shows, and how much of the lesions' volume that is."""
    if not scores:
        return {}
    return {
        "shown_dice": float(np.mean([score.dice[LEVEL] for score in scores])),
        "shown_truth_ml": float(np.mean([score.truth_ml for score in scores])),
        "shown_cases_with_lesion": float(sum(score.truth_ml > 0 for score in scores)),
    }


def write_scores(rows: Sequence[HeldOutScore], target: Path) -> None:
    """Write one line for each sample and combination as CSV.

    Raises
    ------
    TrainingProblem
        It cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(_columns(rows[0])) if rows else [])
            writer.writeheader()
            writer.writerows(_columns(row) for row in rows)
    except OSError as problem:
        raise TrainingProblem(f"{target} could not be written: {problem.strerror}") from None


def _columns(row: HeldOutScore) -> Mapping[str, str | int | float]:
    volumes = {
        "truth_ml": round(row.score.truth_ml, 3),
        "found_ml": round(row.score.found_ml, 3),
        "dice": round(row.dice, 5),
    }
    lesions = {f"lesions_{name}": count for name, count in asdict(row.score.lesions).items()}
    return {
        "sample": row.sample,
        "input": row.combination,
        **volumes,
        **lesions,
        "shown_dice": "" if row.shown is None else round(row.shown.dice[LEVEL], 5),
        "shown_truth_ml": "" if row.shown is None else round(row.shown.truth_ml, 3),
        "processor_s": round(row.processor_s, 3),
    }
