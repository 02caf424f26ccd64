"""Commands about real slices and the planes that are trained on them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.training.bounds import VALIDATION_SEED, above_zero, check_subjects, number, run_seed, whole

UNFOLDING_BATCHES = 24
"""Batches of slices on which a shipped network's spreads are measured."""


class PlaneName(StrEnum):
    """One of the three planes."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"


class SplitName(StrEnum):
    """People of which split."""

    TRAIN = "train"
    DECIDE = "decide"
    TEST = "test"
    ALL = "all"


def score_slices(
    bundle: Annotated[str, typer.Option(help="FOLDER, NAME or NAME/VERSION")],
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    split: Annotated[
        SplitName, typer.Option(help="whose slices, by the hash of their number")
    ] = SplitName.TEST,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    table: Annotated[Path | None, typer.Option("--csv", help="one line for each slice")] = None,
    lesion_maps: Annotated[
        Path | None,
        typer.Option("--lesion-maps", help="folder of these people's lesion maps: a table by kind of lesion"),
    ] = None,
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Score a bundle on real slices, by all that the bundle holds.

    These are its graphs, preprocessing, thresholds, peaks and smallest volume.
    """
    import csv
    from dataclasses import asdict

    from pipeline.training.bundle_commands import read_bundle
    from pipeline.training.calibration import describe_error, list_findings, rate_findings
    from pipeline.training.lesion_kinds import describe_kinds, sort_people
    from pipeline.training.real_slices import read_slices, subject_of
    from pipeline.training.score_slices import describe_scores, score_slice
    from pipeline.training.slice_answers import ROLES, answer_slices, cut_slice
    from pipeline.training.synthesis.lesion_maps import all_maps

    chosen, people = read_bundle(models, bundle), read_slices(slices, split.value)
    answers = answer_slices(chosen, people, threads)
    scores = [
        score_slice(item, cut_slice(chosen, answer)) for item, answer in zip(people, answers, strict=True)
    ]
    if table is not None:
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(asdict(scores[0])))
            writer.writeheader()
            writer.writerows(asdict(score) for score in scores)
    typer.echo(f"{chosen.name}/{chosen.version}, split {split.value}: {describe_scores(scores)}")
    if lesion_maps is not None:
        subjects = {item.subject for item in people}
        maps = [path for path in all_maps(lesion_maps) if subject_of(path) in subjects]
        typer.echo(f"\n### By where most of the lesion lies\n\n{describe_kinds(scores, sort_people(maps))}")
    findings, calibration = list_findings(chosen, people, answers), chosen.output.calibration_for(ROLES)
    typer.echo(f"\n{describe_error(rate_findings(findings, calibration))}")
    if calibration is not None:
        typer.echo(f"Before the manifest's calibration. {describe_error(findings)}")


def synthesize_volumes(
    out: Annotated[Path, typer.Option(help="folder of the pool")],
    count: Annotated[int, whole("how many; 15 MB each")] = 300,
    seed: Annotated[int, whole("seed of the first volume", least=0, most=VALIDATION_SEED - 1)] = 0,
    stride: Annotated[int, whole("step between seeds, for several processes on one pool")] = 1,
    lesion_maps: Annotated[
        Path | None, typer.Option("--lesion-maps", help="folder of real lesion maps in MNI space (NIfTI)")
    ] = None,
    slices: Annotated[
        Path | None, typer.Option(help="folder of real slices: only its train people's maps are drawn")
    ] = None,
) -> None:
    """Make synthetic volumes at 1 mm, of which `train-planes` takes slices at every position."""
    from pipeline.training.volume_pool import VolumePool, fill_volumes

    check_subjects(seed, count, stride)
    fill_volumes(VolumePool(out), seed, count, _train_maps(lesion_maps, slices), stride=stride)


def paint_volumes(
    out: Annotated[Path, typer.Option(help="folder of the pool")],
    data: Annotated[Path, typer.Option(help="folder of real heads, with `real-heads` in it")],
    lesion_maps: Annotated[
        Path, typer.Option("--lesion-maps", help="folder of real lesion maps in MNI space (NIfTI)")
    ],
    slices: Annotated[
        Path, typer.Option(help="folder of real slices: only its train people's maps are drawn")
    ],
    count: Annotated[int, whole("painted copies of each head", most=1000)] = 14,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    brain: Annotated[
        str, typer.Option(help="NAME or NAME/VERSION of the brain extractor")
    ] = "brain-extractor-3mm",
    lesion: Annotated[
        str, typer.Option(help="NAME or NAME/VERSION of any lesion network; it is not asked")
    ] = "stroke-lesion-2mm",
) -> None:
    """Add real heads with painted lesions to a pool of volumes."""
    from pipeline.training.bundle_commands import read_recipe
    from pipeline.training.painted_volumes import paint_volumes as paint
    from pipeline.training.painted_volumes import training_heads
    from pipeline.training.volume_pool import VolumePool

    maps = _train_maps(lesion_maps, slices)
    paint(
        read_recipe(models, lesion, brain, 1),
        list(training_heads(data)),
        maps,
        VolumePool(out),
        count,
        typer.echo,
    )


def train_planes(
    out: Annotated[Path, typer.Option(help="folder of the run: checkpoints and curve.csv")],
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    pool: Annotated[Path, typer.Option(help="folder of synthetic volumes")],
    minutes: Annotated[float, above_zero("length of the whole run")] = 240.0,
    piece_minutes: Annotated[float | None, above_zero("stop after so long; the same command goes on")] = None,
    real_share: Annotated[float, number("share of real slices in a step", most=1.0)] = 0.5,
    batch: Annotated[int, whole("slices of one step", least=2)] = 8,
    held: Annotated[
        Path | None,
        typer.Option(help="folder of volumes to check on, from seeds that the pool does not have"),
    ] = None,
    check_every_s: Annotated[float, above_zero("seconds between checks")] = 300.0,
    plane: Annotated[
        list[PlaneName] | None,
        typer.Option(help="only this plane; others may train beside it in the same folder"),
    ] = None,
    widths: Annotated[str, typer.Option(help="channels of the four levels, finest first")] = "24,48,96,160",
    learning_rate: Annotated[float, above_zero("highest learning rate")] = 2e-3,
    graft_share: Annotated[
        float, number("share of the real slices that get another person's lesion", most=1.0)
    ] = 0.0,
    dropout: Annotated[float, number("share of the coarse features left out at random", most=0.9)] = 0.0,
    other_side: Annotated[int, whole("how many coarse levels see the other side", least=0, most=4)] = 0,
    shared: Annotated[
        bool, typer.Option(help="the planes share their convolutions and keep their own normalisations")
    ] = False,
    seed: Annotated[int, run_seed("0 to 8: which slices are drawn, and how they are varied")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto")] = "cpu",
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Train the planes on real slices and synthetic volumes.

    Run the same command again to go on where it stopped.
    """
    import torch

    from pipeline.training.network import PLANES
    from pipeline.training.plane_schedule import PlaneSchedule
    from pipeline.training.plane_scores import score_planes
    from pipeline.training.problem import TrainingProblem
    from pipeline.training.real_slices import read_slices
    from pipeline.training.train_planes import run_planes
    from pipeline.training.volume_pool import VolumePool

    if shared and plane:
        raise TrainingProblem("--shared trains all planes in one process: leave out --plane")
    torch.set_num_threads(threads)
    deciding = read_slices(slices, "decide")
    unseen = VolumePool(held).paths() if held else []
    schedule = PlaneSchedule(
        minutes,
        piece_minutes,
        batch=batch,
        real_share=real_share,
        learning_rate=learning_rate,
        check_every_s=check_every_s,
        seed=seed,
        widths=_read_widths(widths),
        graft_share=graft_share,
        dropout=dropout,
        other_side=other_side,
        shared=shared,
        planes=tuple(dict.fromkeys(name.value for name in plane)) if plane else tuple(PLANES),
        device=device,
    )
    run_planes(
        schedule,
        out,
        read_slices(slices, "train"),
        VolumePool(pool),
        lambda trainers: score_planes(trainers, deciding, unseen),
        typer.echo,
    )


def widen_planes(
    run: Annotated[Path, typer.Option(help="folder of the run to start from")],
    minute: Annotated[int, whole("which averaged weights: the minute in their file names", least=0)],
    out: Annotated[Path, typer.Option(help="folder of the new run")],
    widths: Annotated[str, typer.Option(help="channels of the four levels, finest first")],
    other_side: Annotated[int, whole("how many coarse levels see the other side", least=0, most=4)] = 0,
) -> None:
    """Start a run of wider planes where a run of narrower ones stood; `train-planes` goes on from there."""
    from pipeline.training.checkpoint import load_checkpoint
    from pipeline.training.plane_schedule import plane_architecture
    from pipeline.training.transfer import widen_planes as widen

    wide = _read_widths(widths)
    for plane, last in _new_checkpoints(out).items():
        start = load_checkpoint(run / f"{plane}-{minute:04d}.average.pt")
        widen(start, plane_architecture(plane, wide, other_side)).save(last)
    typer.echo(f"wrote {out}; train-planes --out {out} --widths {widths} goes on from there")


def unfold_planes(
    bundle: Annotated[str, typer.Option(help="FOLDER, NAME or NAME/VERSION of planes at 1 mm")],
    out: Annotated[Path, typer.Option(help="folder of the new run")],
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    pool: Annotated[Path, typer.Option(help="folder of synthetic volumes")],
    source: Annotated[
        PlaneName | None, typer.Option(help="start every plane from this one, for planes that will share")
    ] = None,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
) -> None:
    """Start a run from the graphs of a bundle, where its checkpoints are gone.

    `train-planes` goes on from there.
    """
    import torch

    from pipeline.segmenters.triplanar.spec import TriplanarSpec
    from pipeline.training.bundle_commands import read_bundle
    from pipeline.training.plane_proof import read_planes
    from pipeline.training.plane_schedule import PlaneSchedule
    from pipeline.training.problem import TrainingProblem
    from pipeline.training.real_slices import read_slices
    from pipeline.training.slice_source import SliceSource
    from pipeline.training.unfold import unfold_plane
    from pipeline.training.volume_pool import VolumePool

    checkpoints = _new_checkpoints(out)
    chosen = read_bundle(models, bundle)
    if not isinstance(chosen.family_spec, TriplanarSpec):
        raise TrainingProblem(f"{chosen.name}/{chosen.version} is no bundle of planes: name a triplanar one")
    shipped = read_planes(chosen)
    widths, other_side = shipped["axial"].architecture.widths, shipped["axial"].architecture.other_side
    sampler = SliceSource(
        read_slices(slices, "train"),
        VolumePool(pool),
        PlaneSchedule(0.0, other_side=other_side),
        torch.Generator().manual_seed(0),
    )
    if sampler.refresh() == 0:
        raise TrainingProblem(f"no volumes in {pool}: run `synthesize-volumes` first")
    for plane, last in checkpoints.items():
        batches = (sampler.draw(plane)[0] for _ in range(UNFOLDING_BATCHES))
        unfold_plane(shipped[source.value if source else plane], plane, batches).save(last)
    typer.echo(
        f"wrote {out}; train-planes --out {out} --widths {','.join(map(str, widths))} "
        f"--other-side {other_side} goes on from there"
    )


def _new_checkpoints(out: Path) -> dict[str, Path]:
    """Return where each plane of a new run begins; refused as a whole where one of them is there already."""
    from pipeline.training.network import PLANES
    from pipeline.training.problem import TrainingProblem

    checkpoints = {plane: out / f"{plane}-last.pt" for plane in PLANES}
    for last in checkpoints.values():
        if last.exists():
            raise TrainingProblem(f"{last} is there already: name another folder for the new run")
    return checkpoints


def _read_widths(text: str) -> tuple[int, ...]:
    from pipeline.training.problem import TrainingProblem

    widths = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if len(widths) != len(text.split(",")) or len(widths) != 4 or not all(0 < w <= 1024 for w in widths):
        raise TrainingProblem(f"--widths {text}: name four numbers from 1 to 1024, such as 24,48,96,160")
    return widths


def export_planes(
    run: Annotated[Path, typer.Option(help="folder of the run")],
    minute: Annotated[int, whole("which averaged weights: the minute in their file names", least=0)],
    facts: Annotated[
        Path,
        typer.Option(
            help="JSON: trained_on, data, facts, cuts, measured and sections of the manifest and the card"
        ),
    ],
    version: Annotated[str, typer.Option(help="version of the bundle, such as 0.3.0")],
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
) -> None:
    """Write the bundle of the planes at 1 mm."""
    import json

    from pipeline.segmenters.triplanar.spec import PLANES
    from pipeline.training.families.triplanar import PlaneCuts, PlaneProvenance
    from pipeline.training.families.triplanar import export_planes as write

    known = json.loads(facts.read_text(encoding="utf-8"))
    bundle = write(
        {plane: run / f"{plane}-{minute:04d}.average.pt" for plane in PLANES},
        models,
        version=version,
        cuts=PlaneCuts(**known["cuts"]),
        provenance=PlaneProvenance(known["trained_on"], known["data"], known["facts"]),
        measured=known.get("measured", {}),
        sections=known.get("sections", {}),
    )
    typer.echo(f"wrote {bundle.folder}")


def _train_maps(lesion_maps: Path | None, slices: Path | None) -> list[Path]:
    from pipeline.training.problem import TrainingProblem
    from pipeline.training.real_slices import maps_of, subjects_of
    from pipeline.training.synthesis.lesion_maps import all_maps, check_maps

    if lesion_maps is None:
        return []
    if slices is None:
        raise TrainingProblem(
            "--lesion-maps needs --slices: without them nobody knows whose maps may be trained on"
        )
    maps = maps_of("train", all_maps(lesion_maps), subjects_of(slices))
    if not maps:
        raise TrainingProblem(f"{lesion_maps} holds no map of a person to train on")
    check_maps(maps)
    return maps
