"""Figures of a bundle on real slices, by plane and by size, with intervals over people.

They count all lesions, and those that show on the FLAIR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.counts import counted
from pipeline.evaluate.overlap import count_overlap
from pipeline.training.network import PLANES
from pipeline.training.real_slices import RealSlice

Mask = npt.NDArray[np.bool_]

SMALLEST_PX = 20
"""Slices with less of a lesion are not scored by Dice."""
AREA_BINS = ((20, 100), (100, 500), (500, 1500), (1500, 1_000_000))
SHOWN_RATIO = 1.1
"""A lesion shows when its median is this many times that of its mirrored place.

On a sagittal slice its surroundings stand in for the mirrored place.
"""
DRAWS = 1000


@dataclass(frozen=True)
class SliceScore:
    """One slice's counts.

    Attributes
    ----------
    dice
        Of prediction and outline; 0 where nothing was found of a lesion.
    true_px, predicted_px, common_px
        Pixels of 1 mm.
    shown
        Whether the lesion is brighter than its mirrored place; false without a lesion.
    """

    plane: str
    subject: int
    dice: float
    true_px: int
    predicted_px: int
    common_px: int
    shown: bool


def score_slice(item: RealSlice, found: Mask) -> SliceScore:
    """Return the counts of one slice."""
    overlap = count_overlap(found, item.mask)
    return SliceScore(
        item.plane,
        item.subject,
        overlap.dice,
        overlap.true,
        overlap.predicted,
        overlap.both,
        find_contrast(item) > SHOWN_RATIO,
    )


def find_contrast(item: RealSlice) -> float:
    """Return the median of the lesion over that of its mirrored place.

    On a sagittal slice it is a ring of 3 to 8 px around the lesion; 0 without one.
    """
    brain = item.image > 0
    inside = item.mask & brain
    if item.plane == "sagittal":
        distance = ndimage.distance_transform_edt(~item.mask)
        other = (distance > 3) & (distance <= 8) & brain
    else:
        # The slices lie in MNI space, whose middle is the middle column.
        other = item.mask[:, ::-1] & brain & ~item.mask
    if not inside.any() or not other.any():
        return 0.0
    return float(np.median(item.image[inside]) / np.median(item.image[other]))


def describe_scores(scores: Sequence[SliceScore]) -> str:
    """Return the tables in Markdown."""
    shown = [score for score in scores if score.shown or score.true_px == 0]
    return "\n\n".join(
        [
            (
                f"{counted(len({score.subject for score in scores}), 'person', 'people')}, "
                f"{counted(len(scores), 'slice')}. "
                f"Dice over slices with at least {SMALLEST_PX} px of lesion; "
                "in brackets the 95 % interval over people (bootstrap). "
                "Found: at least one px of the lesion; empty right: nothing marked where nothing is."
            ),
            "### All lesions",
            _plane_table(scores),
            f"### Lesions that show (median over {SHOWN_RATIO} times that of the mirrored place)",
            _plane_table(shown),
            "### Mean Dice by area of the lesion, px",
            _area_table(scores, shown),
        ]
    )


def _plane_table(scores: Sequence[SliceScore]) -> str:
    lines = [
        (
            "| plane | slices | mean Dice | median Dice | found | empty right | false px on "
            "empty | area correlation | median bias |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (*PLANES, "all"):
        group = [score for score in scores if name in (score.plane, "all")]
        sized = [score for score in group if score.true_px >= SMALLEST_PX]
        empty = [score for score in group if score.true_px == 0]
        if not sized:
            continue
        cells = [
            f"{len(sized)} + {len(empty)} empty",
            _with_interval(sized, lambda some: float(np.mean([score.dice for score in some]))),
            _with_interval(sized, lambda some: float(np.median([score.dice for score in some]))),
            f"{np.mean([score.common_px > 0 for score in sized]):.2f}",
            f"{np.mean([score.predicted_px == 0 for score in empty]):.2f}" if empty else "-",
            f"{np.mean([score.predicted_px for score in empty]):.0f}" if empty else "-",
            f"{area_correlation(sized):.2f}",
            f"{100 * median_bias(sized):+.0f} %",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _area_table(scores: Sequence[SliceScore], shown: Sequence[SliceScore]) -> str:
    names = [f"{low} to {high}" if high < 1_000_000 else f"{low} and more" for low, high in AREA_BINS]
    lines = ["| plane | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for name in (*PLANES, "all", "all that show"):
        chosen = [
            score
            for score in (shown if name == "all that show" else scores)
            if name in (score.plane, "all", "all that show")
        ]
        cells = []
        for low, high in AREA_BINS:
            dices = [score.dice for score in chosen if low <= score.true_px < high]
            cells.append(f"{np.mean(dices):.2f} ({len(dices)})" if dices else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def area_correlation(scores: Sequence[SliceScore]) -> float:
    """Return Pearson's correlation of true and predicted area; NaN where one of them does not vary."""
    true, predicted = np.array([(score.true_px, score.predicted_px) for score in scores], float).T
    return (
        float(np.corrcoef(true, predicted)[0, 1])
        if len(scores) > 1 and true.std() > 0 and predicted.std() > 0
        else float("nan")
    )


def median_bias(scores: Iterable[SliceScore]) -> float:
    """Return the median of (predicted - true) / true area."""
    return float(np.median([score.predicted_px / score.true_px - 1 for score in scores]))


def _with_interval(scores: Sequence[SliceScore], figure: Callable[[Sequence[SliceScore]], float]) -> str:
    """Return a figure with its 95 % interval when people are drawn anew with replacement."""
    people: dict[int, list[SliceScore]] = {}
    for score in scores:
        people.setdefault(score.subject, []).append(score)
    groups = list(people.values())
    dice = np.random.default_rng(0)
    figures = [
        figure([score for pick in dice.integers(len(groups), size=len(groups)) for score in groups[pick]])
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(figures, (2.5, 97.5))
    return f"{figure(scores):.3f} ({low:.2f} to {high:.2f})"
