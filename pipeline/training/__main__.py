"""Command line of the training rooms: `python -m pipeline.training synthesize|train|validate|export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.errors import PipelineError
from pipeline.training import bundle_commands, family_commands, pack_commands, real_commands, slice_commands
from pipeline.training.bounds import (
    RUN_SUBJECTS,
    VALIDATION_SEED,
    above_zero,
    check_subjects,
    number,
    run_seed,
    whole,
)
from pipeline.training.problem import TrainingProblem
from pipeline.training.progress import progress_bar

if TYPE_CHECKING:
    from pipeline.training.checkpoint import Checkpoint
    from pipeline.training.network import Architecture
    from pipeline.training.tasks import Task


class _Named(TyperGroup):
    """Commands whose known problems end as one line, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (TrainingProblem, PipelineError) as problem:
            typer.echo(f"error: {problem}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Named,
    add_completion=False,
    no_args_is_help=True,
    help="Train the bundled networks on synthetic heads.",
)
app.command("export-triplanar")(family_commands.export_triplanar)
app.command("export-proposal")(family_commands.export_proposal)
app.command()(bundle_commands.prove)
app.command()(bundle_commands.measure)
for _command in (
    slice_commands.score_slices,
    slice_commands.synthesize_volumes,
    slice_commands.paint_volumes,
    slice_commands.widen_planes,
    slice_commands.unfold_planes,
    pack_commands.pack,
    slice_commands.train_planes,
    slice_commands.export_planes,
    real_commands.measure_volumes,
    real_commands.calibrate,
    real_commands.compare_real,
    real_commands.compare_weights,
):
    app.command()(_command)

TaskName = Annotated[
    str, typer.Option(help="what is trained: a name in the table of pipeline.training.tasks")
]
Choosing = Annotated[
    int | None, whole("how many of them settle the thresholds; every second one when absent", least=0)
]
Transplants = Annotated[
    float, number("share of subjects whose lesion is cut out of another subject", most=1.0)
]
Threads = Annotated[int, whole("threads of one process", most=1024)]
Maps = Annotated[
    Path | None, typer.Option("--lesion-maps", help="folder of real lesion maps in MNI space (NIfTI)")
]


@app.command()
def synthesize(
    task: TaskName = "lesion",
    out: Annotated[Path | None, typer.Option(help="folder for samples")] = None,
    count: Annotated[int | None, whole("how many; endless, following a trainer, when absent")] = None,
    seed: Annotated[int, whole("seed of the first subject", least=0, most=VALIDATION_SEED - 1)] = 0,
    stride: Annotated[int, whole("step between seeds, for several processes on one pool")] = 1,
    lesion_maps: Maps = None,
    transplants: Transplants = 0.0,
    reuse: Annotated[float, above_zero("how often a trainer may use each sample")] = 1.0,
    demo: Annotated[Path | None, typer.Option(help="write the demonstration study here instead")] = None,
) -> None:
    """Make synthetic samples, or the demonstration study."""
    if demo is not None:
        from pipeline.training.demo import DEMO_SEED, describe, write_demo

        (demo / "README.md").write_text(describe(write_demo(demo, seed or DEMO_SEED)))
        return
    from pipeline.training.pool import Pool, fill_pool
    from pipeline.training.synthesis.lesion_maps import list_maps

    if out is None:
        raise typer.BadParameter("say where to write: --out FOLDER")
    check_subjects(seed, count or 1, stride)
    maps = list_maps(lesion_maps, held_out=False) if lesion_maps else []
    fill_pool(
        Pool(out),
        replace(_task(task), transplants=transplants),
        seed,
        maps,
        count=count,
        stride=stride,
        reuse=reuse,
    )


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="folder of the run: pool, checkpoints, curves")],
    task: TaskName = "lesion",
    minutes: Annotated[float, above_zero("length of the whole run")] = 60.0,
    steps: Annotated[int, whole("steps of the whole run")] = 1_000_000,
    piece_minutes: Annotated[float | None, above_zero("stop after so long; the same command goes on")] = None,
    learning_rate: Annotated[float, above_zero("largest step of the optimiser", most=1.0)] = 1.5e-3,
    crop_share: Annotated[float, number("share of the steps on random crops", most=1.0)] = 0.8,
    batch: Annotated[int, whole("samples of one step; more than 1 on a GPU")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto")] = "cpu",
    seed: Annotated[int, run_seed()] = 0,
    threads: Threads = 1,
    generators: Annotated[
        int, whole("generator processes to start; 0 when one runs already", least=0, most=1024)
    ] = 1,
    validation: Annotated[int, whole("number of validation subjects")] = 16,
    validate_every_s: Annotated[float, above_zero("seconds between validations")] = 300.0,
    init: Annotated[
        Path | None, typer.Option(help="checkpoint, or a bundle's model.onnx, to start from")
    ] = None,
    add: Annotated[
        str | None,
        typer.Option("--add-channel", help="channel that --init lacks; it starts as a copy of the first"),
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="checkpoint of another network whose encoder to start from")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile")] = False,
    lesion_maps: Maps = None,
    transplants: Transplants = 0.0,
) -> None:
    """Train until the time or the steps are used up; run the same command again to go on where it stopped."""
    import torch

    from pipeline.training.generators import run_generators
    from pipeline.training.pool import Pool, write_validation_set
    from pipeline.training.synthesis.lesion_maps import check_maps, list_maps
    from pipeline.training.train import Schedule, Watch, run_training

    torch.set_num_threads(threads)
    maps = list_maps(lesion_maps, held_out=False) if lesion_maps else []
    unseen = list_maps(lesion_maps, held_out=True) if lesion_maps else []
    check_maps([*maps, *unseen])
    chosen_task = replace(_task(task), transplants=transplants)
    start = _read_start(init, encoder, chosen_task.architecture, add)
    schedule = Schedule(
        minutes, steps, piece_minutes, learning_rate, validate_every_s,
        crop_share=crop_share, batch=batch, seed=seed, compiled=compiled, device=device,
    )  # fmt: skip
    with run_generators(Pool(out / "pool"), chosen_task, seed * RUN_SUBJECTS, maps, generators) as check:
        whole_task = replace(chosen_task, transplants=0.0)
        cases = write_validation_set(out / "validation", whole_task, validation, unseen)
        with progress_bar(out.name) as (report, advance):
            run_training(chosen_task, schedule, out, cases, start, Watch(report, advance, check))


def _read_start(
    init: Path | None, encoder: Path | None, architecture: Architecture, add: str | None
) -> Checkpoint | None:
    from pipeline.training.checkpoint import CheckpointError, load_checkpoint
    from pipeline.training.transfer import add_channel, read_exported, take_encoder

    if init is not None and encoder is not None:
        raise typer.BadParameter("--init gives all weights and --encoder a part of them: name one")
    if encoder is not None:
        return take_encoder(load_checkpoint(encoder), architecture)
    if init is None:
        return None
    start = read_exported(init, architecture) if init.suffix == ".onnx" else load_checkpoint(init)
    if add is not None:
        start = add_channel(start, add)
    if start.architecture != architecture:
        raise CheckpointError(f"{init.name} holds {start.architecture}, but {architecture} is to be trained")
    return start.started_anew()


def _task(name: str) -> Task:
    from pipeline.training.families.table import TASKS

    if name not in TASKS:
        raise TrainingProblem(f"the task {name!r} is not one of {', '.join(TASKS)}")
    return TASKS[name]


@app.command()
def validate(
    checkpoint: Annotated[
        Path | None, typer.Option(help="checkpoint of a run: scored on samples as in training")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="folder for the held-out samples; made when missing")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help=(
                "FOLDER, NAME or NAME/VERSION: scored on --samples, or on whole heads through the "
                "shipped path"
            )
        ),
    ] = None,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    brain: Annotated[str, typer.Option(help="brain extractor for whole heads")] = "brain-extractor-3mm",
    task: TaskName = "lesion",
    count: Annotated[int, whole("how many samples or heads")] = 60,
    choosing: Annotated[
        int | None,
        whole(
            "the first so many settle thresholds and are not scored; when absent every second "
            "one for a checkpoint, none for a bundle",
            least=0,
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="one line for each sample and input of a bundle on --samples")
    ] = None,
    settle: Annotated[
        bool,
        typer.Option(
            "--settle", help="only say which threshold and peak suit a bundle on --choosing samples"
        ),
    ] = False,
    threads: Threads = 1,
    lesion_maps: Maps = None,
) -> None:
    """Score a checkpoint on held-out samples, or a bundle on the same samples or on whole heads.

    The command prints the table.
    """
    import torch

    from pipeline.training.pool import write_validation_set
    from pipeline.training.synthesis.lesion_maps import list_maps

    if settle and (bundle is None or samples is None):
        raise typer.BadParameter("--settle goes with --bundle and --samples")
    torch.set_num_threads(threads)
    unseen = list_maps(lesion_maps, held_out=True) if lesion_maps else []
    if bundle is not None and samples is None:
        bundle_commands.score_whole_heads(
            bundle_commands.read_recipe(models, bundle, brain, threads), count, unseen
        )
        return
    if samples is None or (checkpoint is None) == (bundle is None):
        raise typer.BadParameter(
            "say what to score: --samples FOLDER with either --checkpoint FILE or --bundle NAME, "
            "or --bundle NAME alone"
        )
    chosen_task = _task(task)
    cases = write_validation_set(samples, chosen_task, count, unseen)
    if checkpoint is not None:
        _score_checkpoint(checkpoint, chosen_task, cases, choosing)
        return
    bundle_read = bundle_commands.read_bundle(models, str(bundle))
    if settle:
        bundle_commands.settle_held_out(bundle_read, chosen_task, cases[: choosing or None], threads)
    else:
        bundle_commands.score_held_out(bundle_read, chosen_task, cases[choosing or 0 :], table, threads)


def _score_checkpoint(checkpoint: Path, chosen_task: Task, cases: list[Path], choosing: int | None) -> None:
    """Print the figures of a checkpoint on held-out samples, as training makes them."""
    import torch

    from pipeline.training.card_tables import score_table
    from pipeline.training.checkpoint import load_checkpoint
    from pipeline.training.score import score_all, split_samples
    from pipeline.training.validate import predict

    network = load_checkpoint(checkpoint, chosen_task.architecture).averaged_network()
    scores = score_all(
        lambda image: predict(network, torch.from_numpy(image)).numpy(),
        chosen_task,
        *split_samples(cases, choosing),
    )
    typer.echo(score_table(scores))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="checkpoint of a run")],
    samples: Annotated[Path, typer.Option(help="folder for the held-out samples; made when missing")],
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    task: TaskName = "lesion",
    version: str = "0.1.0",
    count: Annotated[int, whole("how many held-out samples")] = 40,
    choosing: Choosing = None,
    proved: Annotated[
        int, whole("on how many fresh cases to compare the exported files with torch", least=2)
    ] = 30,
    seed: Annotated[int, run_seed("that of the run, for the manifest")] = 0,
    compute: str = "2 CPU cores, bf16",
    sections: Annotated[
        Path | None, typer.Option(help="JSON: heading to Markdown, further parts of the card")
    ] = None,
    threads: Threads = 1,
    lesion_maps: Maps = None,
) -> None:
    """Write a model bundle: ONNX with Float16 weights, manifest and card."""
    import torch

    from pipeline.training.card_tables import read_sections
    from pipeline.training.checkpoint import load_checkpoint
    from pipeline.training.families.patch3d import export_bundle
    from pipeline.training.pool import write_validation_set
    from pipeline.training.score import split_samples
    from pipeline.training.synthesis.lesion_maps import list_maps

    torch.set_num_threads(threads)
    chosen_task = _task(task)
    unseen = list_maps(lesion_maps, held_out=True) if lesion_maps else []
    cases = write_validation_set(samples, chosen_task, count, unseen)
    folder = export_bundle(
        load_checkpoint(checkpoint, chosen_task.architecture),
        chosen_task,
        models,
        split_samples(cases, choosing),
        version=version,
        training={"seed": seed, "compute": compute},
        sections=read_sections(sections),
        curve=checkpoint.with_name("curve.png"),
        proved=proved,
    )
    typer.echo(f"wrote {folder}")


if __name__ == "__main__":
    app()
