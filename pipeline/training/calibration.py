"""How far the certainty that a report gives for a lesion is the chance that the lesion is there.

A finding is one marked lesion: on a slice a piece of it, in a volume a whole one. It is right when at least a
tenth of its pixels or voxels lies inside the outline of the expert (`DETECTION_SHARE`), as for the
lesion-wise figures. Its certainty is the mean probability over it until a `Calibration` is fitted: a
logistic regression (Platt, 1999) on the log-odds of that mean and on the logarithm of the volume, because
small findings are seldom right however bright they are. A piece of A mm2 on a slice counts as A^(3/2) mm3,
the inverse of how `cut_slice` makes the smallest area of the smallest volume.
Expected calibration error: Naeini, Cooper, Hauskrecht, AAAI 2015.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from pipeline.bundles.bundle import Bundle
from pipeline.counts import counted
from pipeline.evaluate.lesions import DETECTION_SHARE
from pipeline.records import Calibration
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.real_volumes import LOOKS
from pipeline.training.slice_answers import cut_slice

BINS = 10
SIZES_ML = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, float("inf"))
"""Edges of the sizes by which findings are listed; 0.3 ml is a piece of 45 mm2 on a slice, 10 ml of 464."""
FEWEST = 50
"""A calibration wants so many findings, and as many of each kind as it has numbers."""
_LOWEST = 1e-4

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """One marked lesion: the certainty that a report gives (0..1), its volume, and whether it is right."""

    certainty: float
    volume_ml: float
    right: bool


@dataclass(frozen=True)
class Bin:
    """The findings of a tenth of the certainties: their mean certainty, and the share that is right."""

    count: int
    certainty: float
    right: float


def list_findings(bundle: Bundle, slices: Sequence[RealSlice], answers: Sequence[Float]) -> list[Finding]:
    """Return every piece that a bundle marks on the slices, cut as its manifest says.

    Its certainty is the mean probability, not calibrated.
    """
    findings = []
    for item, probability in zip(slices, answers, strict=True):
        labels, count = ndimage.label(cut_slice(bundle, probability), np.ones((3, 3)))
        for label in range(1, count + 1):
            piece = labels == label
            share = float(item.mask[piece].mean())
            volume_ml = float(piece.sum()) ** 1.5 / 1000
            findings.append(Finding(float(probability[piece].mean()), volume_ml, share >= DETECTION_SHARE))
    return findings


def read_findings(table: Path, network: str, roles: str) -> list[Finding]:
    """Return the findings of one network and input on painted heads, from the CSV of `measure-volumes`.

    Their certainty is the mean probability, not calibrated.

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
        cells = [text.split(":") for row in rows for text in row["findings"].split()]
        findings = [Finding(float(mean), float(volume_ml), right == "1") for mean, volume_ml, right in cells]
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


def fit_calibration(findings: Sequence[Finding], people: int, fitted_on: str) -> Calibration:
    """Return the calibration under which the findings are most likely.

    Parameters
    ----------
    findings
        Their certainty is the mean probability.
    people
        In how many people a network looked for them.
    fitted_on
        What images of whom they come from, in words.

    Raises
    ------
    TrainingProblem
        They are too few, all of them are right or all wrong, or a higher probability is not more often right.
    """
    right = np.array([finding.right for finding in findings], dtype=bool)
    if len(right) < FEWEST or min(right.sum(), (~right).sum()) < 3:
        raise TrainingProblem(
            f"a calibration needs at least {FEWEST} findings, right and wrong ones; there are {len(right)}, "
            f"of which {int(right.sum())} are right"
        )
    means = np.clip([finding.certainty for finding in findings], _LOWEST, 1 - _LOWEST)
    volumes_ml = np.maximum([finding.volume_ml for finding in findings], _LOWEST)
    columns = np.stack([np.log(means / (1 - means)), np.log(volumes_ml), np.ones(len(means))], axis=1)

    def loss(weights: npt.NDArray[np.float64]) -> float:
        log_odds = columns @ weights
        return float(np.logaddexp(0.0, np.where(right, -log_odds, log_odds)).mean())

    # A volume slope below 0 would say that a larger finding is less often right: then it says nothing.
    bounds = ((0.0, 50.0), (0.0, 50.0), (-50.0, 50.0))
    fitted = optimize.minimize(loss, (1.0, 0.0, 0.0), method="L-BFGS-B", bounds=bounds)
    slope, volume_slope, intercept = (round(float(weight), 3) for weight in fitted.x)
    if slope <= 0:
        raise TrainingProblem(
            "findings of a higher probability are not more often right: nothing to calibrate"
        )
    return Calibration(slope, volume_slope, intercept, len(findings), people, fitted_on)


def rate_findings(findings: Sequence[Finding], calibration: Calibration | None) -> list[Finding]:
    """Return the findings with the certainty that a report would give; without a calibration as they are."""
    if calibration is None:
        return list(findings)
    return [
        replace(finding, certainty=calibration.chance(finding.certainty, finding.volume_ml))
        for finding in findings
    ]


def write_lines(calibration: Calibration, images: Sequence[str]) -> str:
    """Return the table of a manifest (`model.toml`) that holds a calibration for these combinations."""
    names = ", ".join(f'"{name}"' for name in images)
    return (
        f"[output.calibration]\nimages = [{names}]\nslope = {calibration.slope}\n"
        f"volume_slope = {calibration.volume_slope}\nintercept = {calibration.intercept}\n"
        f"findings = {calibration.findings}\npeople = {calibration.people}\n"
        f"fitted_on = {json.dumps(calibration.fitted_on)}\n"
    )


def write_facts(path: Path, calibration: Calibration, images: Sequence[str]) -> None:
    """Write a calibration into the cuts of the JSON that `export-planes` reads.

    Raises
    ------
    TrainingProblem
        The file is not such a JSON.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["cuts"]["calibration"] = {"images": list(images), **asdict(calibration)}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise TrainingProblem(f"{path} cannot be read as the facts of export-planes: {problem!r}") from None
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def describe_change(findings: Sequence[Finding], rated: Sequence[Finding]) -> str:
    """Return error and reliability before and after a calibration, and a table by size, in Markdown."""
    return "\n\n".join(
        [
            f"Mean probability. {describe_error(findings)}", describe_bins(findings),
            f"Calibrated. {describe_error(rated)}", describe_bins(rated), describe_sizes(findings, rated),
        ]
    )  # fmt: skip


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


def describe_sizes(findings: Sequence[Finding], rated: Sequence[Finding]) -> str:
    """Return a Markdown table by volume: mean probability, mean certainty, and the share that is right."""
    lines = ["| volume, ml | lesions | mean probability | certainty | right |", "|---|---|---|---|---|"]
    for low, high in itertools.pairwise(SIZES_ML):
        rows = [
            (before.certainty, after.certainty, after.right)
            for before, after in zip(findings, rated, strict=True)
            if low <= before.volume_ml < high
        ]
        if rows:
            figures = " | ".join(f"{figure:.2f}" for figure in np.mean(rows, axis=0))
            lines.append(f"| {low:g} to {high:g} | {len(rows)} | {figures} |")
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
