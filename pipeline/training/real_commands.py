"""Commands that measure bundles and the synthesis on real images: `measure-volumes`, `calibrate`, ..."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.counts import counted
from pipeline.training.bounds import whole


class Images(StrEnum):
    """Which images of a head a network gets."""

    FLAIR = "flair"
    BOTH = "t1+flair"
    T1 = "t1"


def measure_volumes(
    table: Annotated[Path, typer.Option("--csv", help="one line for each head, input and network")],
    data: Annotated[Path, typer.Option(help="folder of real heads")],
    lesion_maps: Annotated[
        Path, typer.Option("--lesion-maps", help="folder of real lesion maps in MNI space (NIfTI)")
    ],
    slices: Annotated[
        Path, typer.Option(help="folder of real slices: only its test people's maps are painted")
    ],
    lesion: Annotated[
        list[str], typer.Option(help="NAME or NAME/VERSION of a lesion network; may be repeated")
    ],
    images: Annotated[
        list[Images] | None, typer.Option(help="which images are sent; may be repeated; all when absent")
    ] = None,
    copies: Annotated[int, whole("outlines to paint into each head; 0: plain heads only", least=0)] = 3,
    plain: Annotated[bool, typer.Option(help="measure the heads without a painted lesion too")] = True,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    brain: Annotated[
        str, typer.Option(help="NAME or NAME/VERSION of the brain extractor")
    ] = "brain-extractor-3mm",
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Measure networks side by side on whole real heads, plain and with painted lesions.

    Painted are outlines of test people, in one study of each person.
    """
    import csv
    import itertools
    from dataclasses import asdict, fields

    from pipeline.training.bundle_commands import read_recipe
    from pipeline.training.real_slices import maps_of, subjects_of
    from pipeline.training.real_volumes import (
        VolumeRow,
        describe_rows,
        measure_painted,
        measure_plain,
        read_heads,
        take_people,
    )

    recipes = {name: read_recipe(models, name, brain, threads) for name in lesion}
    maps = maps_of("test", sorted(lesion_maps.glob("*.nii.gz")), subjects_of(slices))
    heads, combinations = read_heads(data), [choice.value for choice in images or Images]
    rows = []
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(VolumeRow)])
        writer.writeheader()
        for row in itertools.chain(
            measure_plain(heads if plain else [], recipes, combinations),
            measure_painted(take_people(heads), recipes, combinations, maps, copies),
        ):
            rows.append(row)
            writer.writerow(asdict(row))
            stream.flush()
    typer.echo(describe_rows(rows))


def calibrate(
    bundle: Annotated[str, typer.Option(help="FOLDER, NAME or NAME/VERSION")],
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    volumes: Annotated[
        Path | None, typer.Option(help="CSV of measure-volumes: painted heads are shown beside the slices")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="write the reliability diagram here (PNG)")] = None,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Say how far the certainty of a lesion is the chance that it is there.

    A temperature and a line of the log-odds are fitted on the slices of decide people. The command prints
    what they would change; no bundle is changed.
    """
    from pipeline.training.bundle_commands import read_bundle
    from pipeline.training.calibration import (
        calibration_error,
        describe_bins,
        describe_error,
        draw_reliability,
        fit_line,
        fit_temperature,
        list_findings,
        move_findings,
        read_findings,
    )
    from pipeline.training.real_slices import read_slices
    from pipeline.training.slice_answers import answer_slices

    chosen, groups = read_bundle(models, bundle), {}
    for split in ("decide", "test"):
        people = read_slices(slices, split)
        groups[f"slices, {split}"] = list_findings(chosen, people, answer_slices(chosen, people, threads))
    deciding = groups["slices, decide"]
    temperature, (slope, shift) = fit_temperature(deciding), fit_line(deciding)
    if volumes is not None:
        for roles in ("flair", "t1+flair"):
            groups[f"painted heads, {roles}"] = read_findings(volumes, bundle, roles)
    for name, findings in groups.items():
        softened = calibration_error(move_findings(findings, 1 / temperature))
        moved = calibration_error(move_findings(findings, slope, shift))
        typer.echo(
            f"{chosen.name}/{chosen.version}, {name}: {describe_error(findings)} "
            f"With the temperature {temperature:.2f}: {softened:.3f}; with the log-odds times {slope:.2f} "
            f"{shift:+.2f}: {moved:.3f}.\n\n{describe_bins(findings)}\n"
        )
    if picture is not None:
        draw_reliability(picture, dict(groups))


def compare_weights(
    bundle: Annotated[str, typer.Option(help="FOLDER, NAME or NAME/VERSION of the planes")],
    run: Annotated[Path, typer.Option(help="folder of the run, with the weights as they were trained")],
    minute: Annotated[int, whole("which averaged weights: the minute in their file names", least=0)],
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Test whether the shipped Float16 weights outline test people's slices as Float32 weights do."""
    from pipeline.training.bundle_commands import read_bundle
    from pipeline.training.families.triplanar import read_average
    from pipeline.training.network import PLANES
    from pipeline.training.plane_proof import weigh_slices
    from pipeline.training.real_slices import read_slices

    networks = {plane: read_average(run / f"{plane}-{minute:04d}.average.pt", plane) for plane in PLANES}
    chosen = read_bundle(models, bundle)
    result = weigh_slices(chosen, networks, read_slices(slices, "test"), threads)
    typer.echo(
        f"{chosen.name}/{chosen.version}: Float32 minus Float16 weights, mean Dice difference "
        f"{result.mean_difference:+.2e} on {counted(result.cases, 'slice')} of test people "
        f"(90 % from {result.low:+.2e} to {result.high:+.2e}); "
        f"TOST with a margin of {result.margin:g}: p = {result.p_value:.1e}, "
        f"{'equivalent' if result.equivalent else 'NOT shown to be equivalent'}"
    )


def compare_real(
    slices: Annotated[Path, typer.Option(help="folder with axial.npz, coronal.npz and sagittal.npz")],
    pool: Annotated[Path, typer.Option(help="folder of synthetic volumes of synthesize-volumes")],
) -> None:
    """Print the quartiles of real and synthetic axial slices, and which are within 10 %.

    The real ones are those of train people: nothing is fitted to others.
    """
    from pipeline.training.compare_real import compare_slices, read_synthetic
    from pipeline.training.real_slices import read_slices
    from pipeline.training.volume_pool import VolumePool

    synthetic = read_synthetic(VolumePool(pool))
    real = [item for item in read_slices(slices, "train") if item.plane == "axial"]
    typer.echo(compare_slices(real, synthetic))
