"""What the commands for work on files do and print: each returns whether all was well."""

from __future__ import annotations

import itertools
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from dicomnode.commands.terminal import console, counter, print_rows, spinner
from dicomnode.errors import ConfigError, NodeError
from dicomnode.records import Role
from dicomnode.settings.config import Config

if TYPE_CHECKING:
    from dicomnode.offline.cases import OfflineCase
    from dicomnode.offline.evaluation import Evaluation
    from pipeline.evaluate.comparison import Comparison
    from pipeline.evaluate.summary import Estimate


def segment(
    config: Config,
    inputs: Sequence[Path],
    output: Path,
    images: Mapping[Role, Path],
    select: str,
    jobs: int,
    overwrite: bool,
    as_json: bool,
    prior: Path | None = None,
) -> bool:
    """Segment files offline; False when a case was not answered.

    `images` are NIfTI files by role, in place of `inputs`.
    """
    if prior and not inputs:
        raise ConfigError(["segment: --prior goes with DICOM only"])
    if bool(inputs) == bool(images):
        raise ConfigError(
            [
                (
                    "segment: give either DICOM files or folders or a BIDS dataset, or --t1 and/or "
                    "--flair with NIfTI files"
                )
            ]
        )
    with spinner(as_json) as progress:
        cases, raw = _find_cases(inputs, images, select, prior, progress)
    return _answer(config, cases, output, raw, jobs, overwrite, as_json)


def replay(
    config: Config, study: str, output: Path, as_json: bool, **changes: str | float | Path | None
) -> bool:
    """Answer a study of the ledger again into a folder, by its rule; False when it was refused.

    `changes` of [pipeline] on the command line come before the rule's.
    """
    from dicomnode.commands.story import find_study
    from dicomnode.offline.bids.names import hashed_label
    from dicomnode.offline.cases import OfflineCase
    from dicomnode.processes.app import open_ledger
    from dicomnode.settings.rules import settings_by_rule
    from dicomnode.study.earlier import find_earlier
    from dicomnode.study.rules import choose_rule, read_facts

    with closing(open_ledger(config)) as ledger:
        uid = find_study(ledger, study)
        instances, set_aside = tuple(ledger.instances.of_study(uid)), tuple(ledger.instances.set_aside(uid))
        earlier = (
            find_earlier(ledger, config.storage.spool, uid, instances) if config.pipeline.follow_up else None
        )
    if not instances:
        raise NodeError("none of the study's images can be read; `dicomnode why` says more")
    rule = (
        choose_rule(config.rules, read_facts(instances, config.storage.spool)).rule if config.rules else None
    )
    config = choose(settings_by_rule(config, rule) if rule else config, **changes)
    case = OfflineCase(
        hashed_label(uid.encode()), uid, instances=instances, earlier=earlier, set_aside=set_aside
    )
    return _answer(config, [case], output, None, 1, True, as_json)


def choose(config: Config, **changes: str | float | Path | None) -> Config:
    """Return the configuration with the command line's values in `[pipeline]`.

    A value that is None changes nothing.
    """
    pipeline_settings = config.pipeline.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
    return config.model_copy(update={"pipeline": pipeline_settings})


def _answer(
    config: Config,
    cases: Sequence[OfflineCase],
    output: Path,
    raw: Path | None,
    jobs: int,
    overwrite: bool,
    as_json: bool,
) -> bool:
    from dicomnode.offline import batch
    from dicomnode.offline.cases import OfflineTask

    tasks = [OfflineTask(case, config, output) for case in cases]
    with counter(as_json, len(tasks)) as (progress, count_one):
        batch.open_output(config, output, raw)
        answers = batch.answer_cases(tasks, jobs, overwrite, progress, lambda _answer: count_one())
        batch.write_tables(output, answers)
    names = ("case", "folder", "outcome", "result", "seconds")
    rows = [[a.name, str(output / a.label.folder), a.outcome, a.summary, f"{a.seconds:.1f}"] for a in answers]
    print_rows(names, rows, as_json)
    failed = [answer for answer in answers if not answer.is_answered]
    if failed and not as_json:
        console.print(
            f"{len(failed)} of {len(answers)} were not answered: {', '.join(a.name for a in failed)}",
            style="red",
            highlight=False,
        )
    return not failed


def _find_cases(
    inputs: Sequence[Path],
    images: Mapping[Role, Path],
    select: str,
    prior: Path | None,
    progress: Callable[[str], None],
) -> tuple[Sequence[OfflineCase], Path | None]:
    """Return the cases, and the BIDS dataset that they lie in where it is one."""
    from dicomnode.offline.bids.dataset import is_bids
    from dicomnode.offline.cases import bids_cases, dicom_cases, find_prior, nifti_case

    if images:
        return [nifti_case(images)], None
    datasets = [path for path in inputs if is_bids(path)]
    if datasets and len(inputs) > 1:
        raise ConfigError(["segment: give one BIDS dataset at a time"])
    if datasets and prior:
        raise ConfigError(["segment: --prior goes with DICOM only"])
    earlier = find_prior(prior, progress) if prior else None
    cases = bids_cases(datasets[0], select) if datasets else dicom_cases(inputs, progress, earlier)
    if not cases:
        raise NodeError(
            "no subject was found in the dataset"
            if datasets
            else "no DICOM image was found in what was given"
        )
    return cases, datasets[0] if datasets else None


def bids(
    config: Config,
    inputs: Sequence[Path],
    output: Path,
    link: Path | None,
    dates: bool,
    overwrite: bool,
    as_json: bool,
) -> bool:
    """Convert DICOM studies into a raw BIDS dataset; False when one was not converted."""
    from dicomnode.offline.bids.identity import load_registry, register, save_registry
    from dicomnode.offline.bids.place import remove_partial
    from dicomnode.offline.bids.raw import convert_studies, identify_studies, write_dataset
    from dicomnode.offline.cases import find_studies

    link = link or output.parent / f"{output.name or 'bids'}-link.json"
    if link.resolve().is_relative_to(output.resolve()):
        raise ConfigError(
            [
                (
                    f"--link: {link} lies inside the dataset; the file that links subjects to patients "
                    "must be kept apart"
                )
            ]
        )
    registry = load_registry(link, secrets.token_bytes(32))
    with spinner(as_json) as progress:
        studies = find_studies(inputs, progress)
        if not studies:
            raise NodeError("no DICOM image was found in what was given")
        registry = register(registry, identify_studies(studies))
    # Written first: a label that is in the dataset can always be traced.
    save_registry(link, registry)
    with counter(as_json, len(studies)) as (progress, count_one):
        answers = convert_studies(config, studies, registry, output, overwrite, progress, count_one)
    write_dataset(output, studies, registry, dates)
    remove_partial(output)
    names = ("subject", "study", "outcome", "images or reason")
    print_rows(names, [[a.label.stem, a.StudyInstanceUID, a.outcome, a.summary] for a in answers], as_json)
    if not as_json:
        console.print(
            f"Who is who: {link} (personal data, mode 0600). Faces were not removed from the images.",
            highlight=False,
            soft_wrap=True,
        )
    return all(answer.outcome in ("converted", "skipped") for answer in answers)


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
    from dicomnode.offline import evaluation
    from dicomnode.offline.evaluation import Choices, Method, write_evaluation

    choices = Choices(_edges(bins), minimum_lesion_ml, margin, seed)
    with spinner(as_json) as progress:
        evaluation_result = evaluation.evaluate(
            [Method(*method_paths) for method_paths in predictions], Method(*truth), choices, progress
        )
        progress("drawing")
        write_evaluation(evaluation_result, choices, output)
    if as_json:
        typer.echo(json.dumps(evaluation.as_json(evaluation_result, choices), indent=2))
        return
    _print_evaluation(evaluation_result)
    console.print(f"cases.csv, summary.json and pictures: {output}", highlight=False, soft_wrap=True)


def _edges(text: str) -> tuple[float, ...]:
    try:
        edges = tuple(float(edge_text) for edge_text in text.split(","))
    except ValueError:
        edges = ()
    if not edges or edges[0] <= 0 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise ConfigError([f"--bins: {text!r} is not a rising list of volumes in ml, such as 1,5,20,80"])
    return edges


def _print_evaluation(evaluation_result: Evaluation) -> None:
    table = Table(
        "figure",
        *(f"{name} (95 % interval; cases)" for name in evaluation_result.summaries),
        title="over the cases",
    )
    summaries = list(evaluation_result.summaries.values())
    for figure in summaries[0].means:
        table.add_row(f"mean {figure}", *(_estimate(summary.means[figure]) for summary in summaries))
    table.add_row("lesion F1, all lesions pooled", *(_estimate(summary.pooled_f1) for summary in summaries))
    for figure in summaries[0].agreement:
        table.add_row(f"volumes: {figure}", *(_estimate(summary.agreement[figure]) for summary in summaries))
    table.add_row(
        "cases of which no lesion was found",
        *(f"{summary.missed_cases} of {summary.cases}" for summary in summaries),
    )
    console.print(table)
    sizes = Table(
        "method",
        "true volume, ml",
        "cases",
        "mean Dice (95 % interval)",
        "lesion F1",
        "mean predicted ml",
        title="by size",
    )
    for name, summary in evaluation_result.summaries.items():
        for method_paths in summary.bins:
            size = (
                "none"
                if method_paths.high_ml == 0
                else f"{method_paths.low_ml:g} to {method_paths.high_ml:g}"
                if math.isfinite(method_paths.high_ml)
                else f"over {method_paths.low_ml:g}"
            )
            sizes.add_row(
                name,
                size,
                str(method_paths.cases),
                _estimate(method_paths.dice),
                f"{method_paths.lesion_f1:.3f}",
                f"{method_paths.mean_predicted_ml:.2f}",
            )
    console.print(sizes)
    if evaluation_result.comparison is not None:
        _print_comparison(evaluation_result.comparison, list(evaluation_result.scores))


def _print_comparison(comparison: Comparison, names: Sequence[str]) -> None:
    table = Table(
        "figure",
        "cases",
        "mean difference",
        "median difference",
        "Wilcoxon p",
        title=f"{names[0]} minus {names[1]}, case by case",
    )
    for test in comparison.tests:
        figures = ((test.mean_difference, ".4f"), (test.median_difference, ".4f"), (test.p_value, ".3g"))
        table.add_row(
            test.metric,
            str(test.cases),
            *(format(value, form) if math.isfinite(value) else "not defined" for value, form in figures),
        )
    console.print(table)
    tost = comparison.dice_equivalence
    if tost is None:
        console.print("TOST: not with one case.")
        return
    verdict = "equivalent" if tost.equivalent else "not shown to be equivalent"
    sentence = (
        f"{verdict} within +-{tost.margin:g} Dice: 90 % interval {tost.low:.5f} to "
        f"{tost.high:.5f}, p {tost.p_value:.3g}"
    )
    console.print(f"TOST: {sentence}.", highlight=False)


def _estimate(estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return f"not defined ({estimate.cases})"
    interval = f"{estimate.low:.3f} to {estimate.high:.3f}; " if math.isfinite(estimate.low) else ""
    return f"{estimate.value:.3f} ({interval}{estimate.cases})"
