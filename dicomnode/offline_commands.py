"""What the commands for work on files do and print: each returns whether all was well."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from dicomnode.errors import ConfigError
from dicomnode.terminal import console, spinner

if TYPE_CHECKING:
    from dicomnode.evaluation import Evaluation
    from pipeline.evaluate.comparison import Comparison
    from pipeline.evaluate.summary import Estimate


def evaluate(
    predictions: Sequence[tuple[Path, str | None]],
    truth: tuple[Path, str | None],
    output: Path,
    bins: str,
    minimum_lesion_ml: float,
    margin: float,
    seed: int,
    as_json: bool,
) -> None:
    """Score predictions against truths, write tables and pictures, print the summary."""
    from dicomnode import evaluation
    from dicomnode.evaluation import Choices, Method, write_evaluation

    choices = Choices(_edges(bins), minimum_lesion_ml, margin, seed)
    with spinner(as_json) as progress:
        found = evaluation.evaluate([Method(*each) for each in predictions], Method(*truth), choices, progress)
        progress("drawing")
        write_evaluation(found, choices, output)
    if as_json:
        typer.echo(json.dumps(evaluation.as_json(found, choices), indent=2))
        return
    _print_evaluation(found)
    console.print(f"cases.csv, summary.json and pictures: {output}", highlight=False, soft_wrap=True)


def _edges(text: str) -> tuple[float, ...]:
    try:
        edges = tuple(float(part) for part in text.split(","))
    except ValueError:
        edges = ()
    if not edges or edges[0] <= 0 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ConfigError([f"--bins: {text!r} is not a rising list of volumes in ml, such as 1,5,20,80"])
    return edges


def _print_evaluation(found: Evaluation) -> None:
    table = Table("figure", *(f"{name} (95 % interval; cases)" for name in found.summaries), title="over the cases")
    summaries = list(found.summaries.values())
    for figure in summaries[0].means:
        table.add_row(f"mean {figure}", *(_estimate(summary.means[figure]) for summary in summaries))
    table.add_row("lesion F1, all lesions pooled", *(_estimate(summary.pooled_f1) for summary in summaries))
    for figure in summaries[0].agreement:
        table.add_row(f"volumes: {figure}", *(_estimate(summary.agreement[figure]) for summary in summaries))
    table.add_row("cases of which no lesion was found", *(f"{summary.missed_cases} of {summary.cases}" for summary in summaries))
    console.print(table)
    sizes = Table("method", "true volume, ml", "cases", "mean Dice (95 % interval)", "lesion F1", "mean predicted ml", title="by size")
    for name, summary in found.summaries.items():
        for each in summary.bins:
            size = (
                "none"
                if each.high_ml == 0
                else f"{each.low_ml:g} to {each.high_ml:g}"
                if math.isfinite(each.high_ml)
                else f"over {each.low_ml:g}"
            )
            sizes.add_row(name, size, str(each.cases), _estimate(each.dice), f"{each.lesion_f1:.3f}", f"{each.mean_predicted_ml:.2f}")
    console.print(sizes)
    if found.comparison is not None:
        _print_comparison(found.comparison, list(found.scores))


def _print_comparison(comparison: Comparison, names: Sequence[str]) -> None:
    table = Table(
        "figure", "cases", "mean difference", "median difference", "Wilcoxon p", title=f"{names[0]} minus {names[1]}, case by case"
    )
    for test in comparison.tests:
        table.add_row(test.metric, str(test.cases), f"{test.mean_difference:.4f}", f"{test.median_difference:.4f}", f"{test.p_value:.3g}")
    console.print(table)
    tost = comparison.dice_equivalence
    if tost is None:
        console.print("TOST: not with one case.")
        return
    verdict = "equivalent" if tost.equivalent else "not shown to be equivalent"
    sentence = f"{verdict} within +-{tost.margin:g} Dice: 90 % interval {tost.low:.5f} to {tost.high:.5f}, p {tost.p_value:.3g}"
    console.print(f"TOST: {sentence}.", highlight=False)


def _estimate(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return f"not defined ({estimate.cases})"
    interval = f"{estimate.low:.3f} to {estimate.high:.3f}; " if math.isfinite(estimate.low) else ""
    return f"{estimate.value:.3f} ({interval}{estimate.cases})"
