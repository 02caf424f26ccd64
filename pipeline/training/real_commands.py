"""Commands that measure bundles and the synthesis on real images: `measure-volumes`, `calibrate`, ..."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.counts import counted
from pipeline.training.bounds import whole
from pipeline.training.slice_commands import SplitName


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
    from pipeline.training.synthesis.lesion_maps import all_maps

    recipes = {name: read_recipe(models, name, brain, threads) for name in lesion}
    maps = maps_of("test", all_maps(lesion_maps), subjects_of(slices))
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
    split: Annotated[
        SplitName, typer.Option(help="whose slices are shown; the fit is on decide people whatever is shown")
    ] = SplitName.DECIDE,
    fitted_on: Annotated[
        str, typer.Option(help="what the slices are, for the manifest")
    ] = "FLAIR slices of people with an acute stroke, SOOP",
    volumes: Annotated[
        Path | None, typer.Option(help="CSV of measure-volumes: painted heads are shown beside the slices")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(help="JSON of export-planes: the calibration is written into its cuts")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="write the reliability diagram here (PNG)")] = None,
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
) -> None:
    """Fit how the certainty of a lesion becomes the chance that it is there, on slices of decide people.

    The command prints tables before and after, and the lines for the manifest. No bundle is changed.
    """
    from pipeline.training.bundle_commands import read_bundle
    from pipeline.training.calibration import (
        describe_change,
        draw_reliability,
        fit_calibration,
        list_findings,
        rate_findings,
        read_findings,
        write_facts,
        write_lines,
    )
    from pipeline.training.real_slices import read_slices
    from pipeline.training.slice_answers import answer_slices

    chosen = read_bundle(models, bundle)
    people = {
        name.value: read_slices(slices, name.value) for name in dict.fromkeys([SplitName.DECIDE, split])
    }
    groups = {
        f"slices, {name}": list_findings(chosen, items, answer_slices(chosen, items, threads))
        for name, items in people.items()
    }
    deciding = len({item.subject for item in people["decide"]})
    calibration = fit_calibration(groups["slices, decide"], deciding, fitted_on)
    if volumes is not None:
        for roles in ("flair", "t1+flair"):
            groups[f"painted heads, {roles}"] = read_findings(volumes, bundle, roles)
    rated = {name: rate_findings(findings, calibration) for name, findings in groups.items()}
    for name, findings in groups.items():
        typer.echo(
            f"### {chosen.name}/{chosen.version}, {name}\n\n{describe_change(findings, rated[name])}\n"
        )
    images = ["+".join(roles) for roles in chosen.input.accepts if "flair" in roles]
    typer.echo(f"Lines for the manifest:\n\n{write_lines(calibration, images)}")
    if facts is not None:
        write_facts(facts, calibration, images)
    if picture is not None:
        draw_reliability(picture, dict(rated))


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
