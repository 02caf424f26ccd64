"""Commands that measure bundles and the synthesis on real images: `measure-volumes`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

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
            measure_plain(heads, recipes, combinations),
            measure_painted(take_people(heads), recipes, combinations, maps, copies),
        ):
            rows.append(row)
            writer.writerow(asdict(row))
            stream.flush()
    typer.echo(describe_rows(rows))
