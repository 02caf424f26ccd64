"""`dicomnode evaluate`: masks against their truths, one or two methods.

Tables, a summary and pictures into a folder.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dicomnode.errors import NodeError
from dicomnode.offline.masks import Pair, pair_masks, read_pair, read_pairs_problem
from pipeline.errors import CaseRefused
from pipeline.evaluate.case import CaseScore, score_case
from pipeline.evaluate.comparison import DICE_MARGIN, Comparison, compare_methods
from pipeline.evaluate.plots import plot_bland_altman, plot_boxes, plot_volumes
from pipeline.evaluate.summary import SIZE_EDGES_ML, Summary, summarize_cases

Progress = Callable[[str], None]

CASE_COLUMNS = (
    *("true_ml", "predicted_ml", "volume_error_ml", "dice", "jaccard", "precision", "sensitivity"),
    *("average_distance_mm", "distance_95_mm", "lesion_f1"),
)
_COUNT_COLUMNS = ("true", "detected", "predicted", "right")


@dataclass(frozen=True)
class Method:
    """A set of predictions: a file or folder, and the pattern of its masks (None: found by name)."""

    path: Path
    pattern: str | None = None


@dataclass(frozen=True)
class Choices:
    """What may be chosen.

    Where size bins part, the smallest lesion that counts, the Dice margin of the TOST, the seed of the
    intervals.
    """

    edges_ml: tuple[float, ...] = SIZE_EDGES_ML
    minimum_lesion_ml: float = 0.0
    margin: float = DICE_MARGIN
    seed: int = 20240529


@dataclass(frozen=True)
class Evaluation:
    """Scores and summary by method, first method first; `comparison` is first minus second."""

    scores: Mapping[str, tuple[CaseScore, ...]]
    summaries: Mapping[str, Summary]
    comparison: Comparison | None


def evaluate(methods: Sequence[Method], truth: Method, choices: Choices, progress: Progress) -> Evaluation:
    """Score one method, or two on the same cases.

    Raises
    ------
    NodeError
        A prediction and a truth do not belong together; every such case is named, and nothing is scored in
        part.
    """
    scores: dict[str, tuple[CaseScore, ...]] = {}
    for name, method in zip(_names(methods), methods, strict=True):
        pairs = pair_masks(method.path, truth.path, method.pattern, truth.pattern)
        scores[name] = _score(name, pairs, choices.minimum_lesion_ml, progress)
    # The same cases are drawn for both methods, so that their intervals can be laid beside each other.
    summaries = {
        name: summarize_cases(cases, np.random.default_rng(choices.seed), choices.edges_ml)
        for name, cases in scores.items()
    }
    first, *other_scores = scores.values()
    comparison = compare_methods(first, other_scores[0], choices.margin) if other_scores else None
    return Evaluation(scores, summaries, comparison)


def write_evaluation(evaluation: Evaluation, choices: Choices, folder: Path) -> None:
    """Write `cases.csv`, `summary.json` and three PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["method", "case", *CASE_COLUMNS, *(f"lesions_{name}" for name in _COUNT_COLUMNS)])
        for method, cases in evaluation.scores.items():
            for case in cases:
                numbers = [_cell(getattr(case, name)) for name in CASE_COLUMNS]
                table.writerow(
                    [method, case.name, *numbers, *(getattr(case.lesions, name) for name in _COUNT_COLUMNS)]
                )
    (folder / "summary.json").write_text(json.dumps(as_json(evaluation, choices), indent=2) + "\n")
    pictures = {
        "dice-boxes.png": plot_boxes(evaluation.scores, choices.edges_ml),
        "volumes.png": plot_volumes(evaluation.scores),
        "bland-altman.png": plot_bland_altman(evaluation.scores),
    }
    for name, png in pictures.items():
        (folder / name).write_bytes(png)


def as_json(evaluation: Evaluation, choices: Choices) -> dict[str, Any]:
    """Return the summary as JSON types; what is not defined is null."""
    value: dict[str, Any] = _plain(
        {"choices": choices, "methods": evaluation.summaries, "comparison": evaluation.comparison}
    )
    return value


def _score(
    method: str, pairs: Sequence[Pair], minimum_lesion_ml: float, progress: Progress
) -> tuple[CaseScore, ...]:
    scores: list[CaseScore] = []
    refused: list[tuple[Pair, CaseRefused]] = []
    for number, pair in enumerate(pairs, start=1):
        progress(f"{method}: {number} of {len(pairs)}: {pair.name}")
        try:
            scores.append(score_case(pair.name, *read_pair(pair), minimum_lesion_ml))
        except CaseRefused as problem:
            refused.append((pair, problem))
    if refused:
        raise read_pairs_problem(refused)
    return tuple(scores)


def _names(methods: Sequence[Method]) -> list[str]:
    names = [method.path.name or str(method.path) for method in methods]
    if len(set(names)) < len(names):
        names = [f"{method.path.parent.name}/{method.path.name}" for method in methods]
    if len(set(names)) < len(names):
        raise NodeError("both sets of predictions are the same")
    return names


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(number: float) -> str:
    return "n/a" if math.isnan(number) else f"{number:.6g}"
