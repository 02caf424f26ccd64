"""Commands about bundles that exist: `prove`, `measure`, and what `validate --bundle` does on samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.counts import counted
from pipeline.training.bounds import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bundles.bundle import Bundle
    from pipeline.plan import Recipe
    from pipeline.training.tasks import Task


def prove(
    bundle: Annotated[Path, typer.Argument(help="folder of a bundle: models/NAME/VERSION")],
    count: Annotated[int, whole("fresh cases", least=2)] = 30,
    run: Annotated[
        Path | None,
        typer.Option(help="folder of the run of the planes, for the weights as they were trained"),
    ] = None,
    minute: Annotated[
        int, whole("which averaged weights of --run: the minute in their file names", least=0)
    ] = 0,
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Write the proof of a bundle.

    Its weights in torch, ONNX Float32 and Float16: those of --run, or else the shipped ones.
    """
    import torch

    from pipeline.segmenters.families import load_bundle
    from pipeline.training.network import PLANES
    from pipeline.training.plane_proof import run_planes
    from pipeline.training.proof import Proof, check_rows, write_proof
    from pipeline.training.verify import run_forms

    torch.set_num_threads(threads)
    bundle_read = load_bundle(bundle)
    if run is None:
        rows, _ = run_forms(bundle_read, count, typer.echo)
        write_proof(bundle, Proof(bundle_read.sha256, "as shipped, widened from Float16", tuple(rows)))
        return
    from pipeline.training.families.triplanar import read_average

    networks = {plane: read_average(run / f"{plane}-{minute:04d}.average.pt", plane) for plane in PLANES}
    rows, _ = run_planes(bundle_read, networks, count, typer.echo)
    check_rows(bundle_read.name, rows)
    write_proof(bundle, Proof(bundle_read.sha256, "as trained, in Float32", tuple(rows)))


def measure(
    out: Annotated[Path, typer.Option(help="folder for figures, pictures and the cards' sections")],
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    brain: Annotated[
        str, typer.Option(help="NAME or NAME/VERSION of the brain extractor")
    ] = "brain-extractor-3mm",
    lesion: Annotated[
        str, typer.Option(help="NAME or NAME/VERSION of the lesion network")
    ] = "stroke-lesion-2mm",
    data: Annotated[
        Path | None, typer.Option(help="folder of real heads; synthetic measures only when absent")
    ] = None,
    lesion_maps: Annotated[
        Path | None, typer.Option("--lesion-maps", help="folder of real lesion maps in MNI space (NIfTI)")
    ] = None,
    implants: Annotated[int, whole("held-out outlines to paint into each real head")] = 4,
    heads: Annotated[
        int,
        whole("synthetic heads for the share of cortical lesions that is kept; 0 to leave out", least=0),
    ] = 40,
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Send real heads through the shipped path and write what the cards say about it."""
    import json

    from pipeline.training.cards import brain_sections, lesion_sections
    from pipeline.training.cavities import measure_kept, measure_kept_real
    from pipeline.training.implant import paint_cases
    from pipeline.training.measure_real import measure as measure_heads
    from pipeline.training.measure_real import measure_truths
    from pipeline.training.real_cases import ms_cases, single_cases
    from pipeline.training.synthesis.lesion_maps import list_maps

    out.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(models, lesion, brain, threads)
    rows = measure_heads(data, recipe, out) if data else []
    kept_rows = measure_kept(recipe.brain, heads, threads)
    painted: list[dict[str, Any]] = []
    kept_real: list[dict[str, Any]] = []
    if data and lesion_maps:
        cases, unseen = (
            [case for case in (*ms_cases(data), *single_cases(data)) if case.stroke_free],
            list_maps(lesion_maps, held_out=True),
        )
        kept_real = measure_kept_real(recipe, cases, unseen, implants)
        (out / "kept-real.json").write_text(json.dumps(kept_real, indent=1))
        painted = measure_truths(paint_cases(recipe, cases, unseen, implants), recipe, out)
        (out / "implants.json").write_text(json.dumps(painted, indent=1))
    (out / "kept.json").write_text(json.dumps(kept_rows, indent=1))
    (out / "brain-sections.json").write_text(json.dumps(brain_sections(rows, kept_rows, kept_real), indent=1))
    (out / "lesion-sections.json").write_text(json.dumps(lesion_sections(rows, painted), indent=1))


def score_whole_heads(recipe: Recipe, count: int, maps: Sequence[Path]) -> None:
    """Print a bundle's figures on synthetic whole heads, through the path that the node runs."""
    from pipeline.training.shipped import validate_bundle, whole_head_table

    typer.echo(whole_head_table(validate_bundle(recipe, count, maps)))


def score_held_out(
    bundle: Bundle, task: Task, paths: Sequence[Path], table: Path | None, threads: int
) -> None:
    """Print a bundle's figures on held-out samples, at its own thresholds.

    The CSV `table` gets each score.
    """
    from pipeline.training.card_tables import score_table
    from pipeline.training.held_out import score_bundle, summarise_bundle, write_scores
    from pipeline.training.problem import TrainingProblem
    from pipeline.training.progress import progress_bar

    if not paths:
        raise TrainingProblem("no sample is left to score: --choosing must be smaller than --count")
    rows, total = [], len(paths) * len(bundle.input.accepts)
    with progress_bar(bundle.name) as (_, advance):
        for row in score_bundle(bundle, task, paths, threads):
            rows.append(row)
            advance(len(rows) / total, row.sample)
    if table is not None:
        write_scores(rows, table)
    typer.echo(
        f"{bundle.name}/{bundle.version} on {counted(len(paths), 'sample')}, {paths[0].stem} to "
        f"{paths[-1].stem}, at its own thresholds\n"
    )
    typer.echo(score_table(summarise_bundle(bundle, rows)))


def settle_held_out(bundle: Bundle, task: Task, paths: Sequence[Path], threads: int) -> None:
    """Print the thresholds and peaks with which a bundle has the best mean Dice on these samples.

    As its manifest would say it.
    """
    from pipeline.training.held_out import settle_bundle

    cuts = settle_bundle(bundle, task, paths, threads)
    samples = counted(len(paths), "sample")
    typer.echo(f"{bundle.name}/{bundle.version} on {samples}, {paths[0].stem} to {paths[-1].stem}")
    typer.echo(
        "thresholds = { " + ", ".join(f'"{name}" = {cut.threshold}' for name, cut in cuts.items()) + " }"
    )
    typer.echo(
        "peaks = { " + ", ".join(f'"{name}" = {cut.peak}' for name, cut in cuts.items() if cut.peak) + " }"
    )


def read_recipe(models: Path, lesion: str, brain: str, threads: int) -> Recipe:
    """Return the recipe of two bundles, each by FOLDER, NAME or NAME/VERSION."""
    from pipeline.plan import Recipe

    return Recipe(read_bundle(models, lesion), read_bundle(models, brain), threads=threads)


def read_bundle(models: Path, name: str) -> Bundle:
    """Return the bundle in a folder of its own, or the one that `models` has under NAME or NAME/VERSION."""
    from pipeline.bundles.manifest import MANIFEST
    from pipeline.segmenters.families import find_bundle, load_bundle

    folder = Path(name).resolve()
    return load_bundle(folder) if (folder / MANIFEST).exists() else find_bundle(models, name)
