"""Commands about real slices and the planes that are trained on them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SplitName(StrEnum):
    """People of which split."""

    TRAIN = "train"
    DECIDE = "decide"
    TEST = "test"
    ALL = "all"


def score_slices(
    bundle: Annotated[str, typer.Option(help="FOLDER, NAME or NAME/VERSION")],
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    split: Annotated[SplitName, typer.Option(help="whose slices, by the hash of their number")] = SplitName.TEST,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    table: Annotated[Path | None, typer.Option("--csv", help="one line for each slice")] = None,
    threads: int = 1,
) -> None:
    """Score a bundle on real slices, by its own graphs, preprocessing, thresholds, peaks and smallest volume."""
    import csv
    from dataclasses import asdict

    from pipeline.training.bundle_commands import read_bundle
    from pipeline.training.real_slices import read_slices
    from pipeline.training.score_slices import describe_scores, score_slice
    from pipeline.training.slice_answers import answer_slices, cut_slice

    chosen, people = read_bundle(models, bundle), read_slices(slices, split.value)
    answers = answer_slices(chosen, people, threads)
    scores = [score_slice(item, cut_slice(chosen, answer)) for item, answer in zip(people, answers, strict=True)]
    if table is not None:
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(asdict(scores[0])))
            writer.writeheader()
            writer.writerows(asdict(score) for score in scores)
    typer.echo(f"{chosen.name}/{chosen.version}, split {split.value}: {describe_scores(scores)}")
