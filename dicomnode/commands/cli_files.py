"""The commands that answer, convert and measure files; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.commands import files
from dicomnode.commands.options import (
    ConfigOption,
    FilesConfigOption,
    JsonOption,
    ModelOption,
    PeakOption,
    ThresholdOption,
    load,
    load_for_files,
)
from dicomnode.records import Role


def segment(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="DICOM files or folders, or a BIDS dataset.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results: a BIDS derivative dataset.")
    ] = Path("segment-out"),
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 as NIfTI, instead of DICOM.")] = None,
    flair: Annotated[Path | None, typer.Option("--flair", help="FLAIR as NIfTI, instead of DICOM.")] = None,
    model: ModelOption = None,
    threshold: ThresholdOption = None,
    peak: PeakOption = None,
    prior: Annotated[
        Path | None, typer.Option("--prior", help="Earlier DICOM study with its seg.dcm, to compare with.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that keeps slow steps; without it the configured one."),
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            "--select", help="Decides where a BIDS session has several images of a kind, such as run-1."
        ),
    ] = "",
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, max=64, help="Cases at a time, each in a process of its own."),
    ] = 1,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Answer again what an earlier run answered with the same settings."),
    ] = False,
    config: FilesConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment DICOM studies, NIfTI volumes or a BIDS dataset offline, by the path that the node uses."""
    given: dict[Role, Path | None] = {"flair": flair, "t1": t1}
    images = {role: path for role, path in given.items() if path}
    settings = files.choose(
        load_for_files(config), lesion_model=model, threshold=threshold, peak=peak, cache=cache
    )
    fine = files.segment(settings, inputs or [], output, images, select, jobs, overwrite, as_json, prior)
    raise typer.Exit(0 if fine else 1)


def bids(
    inputs: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")] = Path("bids-out"),
    link: Annotated[
        Path | None,
        typer.Option(
            "--link",
            help="File that links subjects to patients; without it OUTPUT-link.json beside the dataset.",
        ),
    ] = None,
    dates: Annotated[
        bool,
        typer.Option("--dates", help="Write when each session was; without it no day is in the dataset."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Convert again what an earlier run converted.")
    ] = False,
    config: FilesConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn DICOM studies into a BIDS dataset without names; faces are not removed."""
    raise typer.Exit(
        0 if files.bids(load_for_files(config), inputs, output, link, dates, overwrite, as_json) else 1
    )


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(help="Predicted masks: a folder (NIfTI, BIDS derivatives or DICOM-SEG) or one file."),
    ],
    truth: Annotated[
        Path,
        typer.Argument(help="True masks, as the predictions; cases are matched by subject or by file name."),
    ],
    against: Annotated[
        Path | None, typer.Option("--against", help="Predictions of another method, to compare case by case.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and pictures.")] = Path(
        "evaluate-out"
    ),
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="Which files are predictions, such as '**/*_label-L_mask.nii.gz'."),
    ] = None,
    truth_pattern: Annotated[
        str | None, typer.Option("--truth-pattern", help="Which files are truths.")
    ] = None,
    against_pattern: Annotated[
        str | None, typer.Option("--against-pattern", help="Which files are the other method's.")
    ] = None,
    bins: Annotated[
        str, typer.Option("--bins", help="Where the size bins of true volume part, in ml.")
    ] = "1,5,20,80",
    minimum_lesion_ml: Annotated[
        float,
        typer.Option(
            "--minimum-lesion-ml", min=0, help="Smaller lesions are not counted in the lesion-wise figures."
        ),
    ] = 0.0,
    margin: Annotated[
        float, typer.Option("--margin", min=1e-9, help="Mean Dice difference that does not matter (TOST).")
    ] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap intervals.")] = 20240529,
    as_json: JsonOption = False,
) -> None:
    """Measure masks against their truths; with --against, compare two methods."""
    methods = [(predictions, pattern), *([(against, against_pattern)] if against else [])]
    files.evaluate(methods, (truth, truth_pattern), output, bins, minimum_lesion_ml, margin, seed, as_json)


def replay(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or the end of one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "replay-out"
    ),
    model: ModelOption = None,
    threshold: ThresholdOption = None,
    peak: PeakOption = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that keeps slow steps; without it the configured one."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a received study again into a folder, perhaps with another threshold or model.

    Nothing is sent or changed.
    """
    changes = {"lesion_model": model, "threshold": threshold, "peak": peak, "cache": cache}
    raise typer.Exit(0 if files.replay(load(config), study, output, as_json, **changes) else 1)
