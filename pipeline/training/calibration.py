"""How far the certainty that a report gives for a lesion is the chance that the lesion is there.

The certainty is the mean probability over the lesion. A lesion is right when a tenth of it is true, as for
the lesion-wise figures. Expected calibration error: Naeini, Cooper, Hauskrecht, AAAI 2015. Temperature: Guo
et al., ICML 2017, here on the certainty of a lesion instead of on single pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from pipeline.bundles.bundle import Bundle
from pipeline.counts import counted
from pipeline.evaluate.lesions import DETECTION_SHARE
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.real_volumes import LOOKS
from pipeline.training.slice_answers import cut_slice

BINS = 10
TEMPERATURES = np.geomspace(0.2, 20.0, 200)
_LOWEST = 1e-4

Float = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """One marked lesion: the certainty that a report would give, and whether the lesion is right."""

    certainty: float
    right: bool


@dataclass(frozen=True)
class Bin:
    """The findings of a tenth of the certainties: their mean certainty, and the share that is right."""

    count: int
    certainty: float
    right: float


def list_findings(bundle: Bundle, slices: Sequence[RealSlice], answers: Sequence[Float]) -> list[Finding]:
    """Return every piece that a bundle marks on the slices, cut as its manifest says."""
    findings = []
    for item, probability in zip(slices, answers, strict=True):
        labels, count = ndimage.label(cut_slice(bundle, probability), np.ones((3, 3)))
        for label in range(1, count + 1):
            piece = labels == label
            share = float(item.mask[piece].mean())
            findings.append(Finding(float(probability[piece].mean()), share >= DETECTION_SHARE))
    return findings


def read_findings(table: Path, network: str, roles: str) -> list[Finding]:
    """Return the findings of one network and input on painted heads, from the CSV of `measure-volumes`.

    Raises
    ------
    TrainingProblem
        The file is not one, or has none of them.
    """
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            rows = [
                row
                for row in csv.DictReader(stream)
                if (row["network"], row["roles"]) == (network, roles) and row["look"] in LOOKS
            ]
        pairs = [text.split(":") for row in rows for text in row["findings"].split()]
        findings = [Finding(float(certainty), right == "1") for certainty, right in pairs]
    except (OSError, KeyError, ValueError) as problem:
        raise TrainingProblem(f"{table} cannot be read as a table of measure-volumes: {problem}") from None
    if not findings:
        raise TrainingProblem(f"{table} has no lesion that {network} found on {roles}")
    return findings


def fill_bins(findings: Sequence[Finding]) -> list[Bin]:
    """Return the bins of a tenth that hold findings, by rising certainty."""
    numbers = [min(int(finding.certainty * BINS), BINS - 1) for finding in findings]
    bins = []
    for tenth in sorted(set(numbers)):
        group = [finding for finding, number in zip(findings, numbers, strict=True) if number == tenth]
        mean = float(np.mean([finding.certainty for finding in group]))
        bins.append(Bin(len(group), mean, float(np.mean([finding.right for finding in group]))))
    return bins


def calibration_error(findings: Sequence[Finding]) -> float:
    """Return the expected calibration error, 0..1; NaN without a finding."""
    if not findings:
        return float("nan")
    return sum(row.count * abs(row.certainty - row.right) for row in fill_bins(findings)) / len(findings)


def fit_temperature(findings: Sequence[Finding]) -> float:
    """Return the temperature under which the findings are most likely.

    Raises
    ------
    TrainingProblem
        All of them are right or all wrong: no temperature is the best one.
    """
    return float(min(TEMPERATURES, key=lambda temperature: _loss(findings, 1 / temperature, 0.0)))


def fit_line(findings: Sequence[Finding]) -> tuple[float, float]:
    """Return slope and shift of the log-odds under which the findings are most likely (Platt, 1999).

    Raises
    ------
    TrainingProblem
        All of them are right or all wrong: no line is the best one.
    """
    start = (1.0, 0.0)
    _loss(findings, *start)
    fitted = optimize.minimize(lambda line: _loss(findings, *line), start, method="Nelder-Mead")
    return float(fitted.x[0]), float(fitted.x[1])


def _loss(findings: Sequence[Finding], slope: float, shift: float) -> float:
    right = np.array([finding.right for finding in findings])
    if not findings or right.all() or not right.any():
        raise TrainingProblem("a fit needs lesions that are right and lesions that are wrong")
    moved = move_odds(np.array([finding.certainty for finding in findings]), slope, shift)
    clipped = np.clip(moved, _LOWEST, 1 - _LOWEST)
    return float(-np.log(np.where(right, clipped, 1 - clipped)).mean())


def move_odds(certainties: Reals, slope: float, shift: float = 0.0) -> Reals:
    """Return certainties whose log-odds are multiplied by `slope`, then moved by `shift`."""
    clipped = np.clip(certainties, _LOWEST, 1 - _LOWEST)
    moved: Reals = 1 / (1 + np.exp(-shift) * ((1 - clipped) / clipped) ** slope)
    return moved


def move_findings(findings: Sequence[Finding], slope: float, shift: float = 0.0) -> list[Finding]:
    """Return the findings with moved certainties; a temperature T is a slope of 1 / T."""
    return [
        Finding(float(move_odds(np.array(finding.certainty), slope, shift)), finding.right)
        for finding in findings
    ]


def describe_error(findings: Sequence[Finding]) -> str:
    """Return the expected calibration error in a sentence."""
    return (
        f"Expected calibration error per lesion: {calibration_error(findings):.3f} on "
        f"{counted(len(findings), 'marked lesion')} (mean certainty "
        f"{np.mean([finding.certainty for finding in findings]):.2f}, right "
        f"{np.mean([finding.right for finding in findings]):.2f})."
        if findings
        else "Expected calibration error per lesion: nothing was marked."
    )


def describe_bins(findings: Sequence[Finding]) -> str:
    """Return the reliability table in Markdown."""
    lines = ["| lesions | mean certainty | right |", "|---|---|---|"]
    lines += [f"| {row.count} | {row.certainty:.2f} | {row.right:.2f} |" for row in fill_bins(findings)]
    return "\n".join(lines)


def draw_reliability(path: Path, groups: dict[str, Sequence[Finding]]) -> None:
    """Draw the share that is right over the certainty, a line for each group, dots by how many lesions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="dashed")
    for name, findings in groups.items():
        bins = fill_bins(findings)
        error = calibration_error(findings)
        (line,) = axes.plot(
            [row.certainty for row in bins], [row.right for row in bins],
            label=f"{name}: {counted(len(findings), 'lesion')}, error {error:.2f}",
        )  # fmt: skip
        axes.scatter(
            [row.certainty for row in bins], [row.right for row in bins], [4 * row.count for row in bins],
            color=line.get_color(), alpha=0.5,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="certainty in the report", ylabel="share that is right")
    axes.legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
