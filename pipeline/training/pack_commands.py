"""The command `pack`: what a machine that is lent needs to make training samples, in few files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    out: Annotated[Path, typer.Option(help="folder for template.npz and lesion-maps.npz")],
    lesion_maps: Annotated[
        Path | None, typer.Option(help="folder of real lesion maps in MNI space (NIfTI)")
    ] = None,
) -> None:
    """Write the anatomy, and lesion maps, as one file each, for a machine without nilearn.

    There `DICOMNODE_TEMPLATE` names the first, and `--lesion-maps` the second.
    """
    from pipeline.counts import counted
    from pipeline.training.synthesis.anatomy import TEMPLATE_VARIABLE, pack_template
    from pipeline.training.synthesis.lesion_maps import LesionMapError, all_maps, pack_maps

    maps = [] if lesion_maps is None else all_maps(lesion_maps)
    if lesion_maps is not None and not maps:
        raise LesionMapError(f"{lesion_maps} has no *.nii.gz file")
    template, packed = out / "template.npz", out / "lesion-maps.npz"
    pack_template(template)
    typer.echo(f"{template}: {template.stat().st_size / 1e6:.1f} MB; set {TEMPLATE_VARIABLE} to it")
    if maps:
        pack_maps(maps, packed)
        typer.echo(
            f"{packed}: {counted(len(maps), 'map')}, {packed.stat().st_size / 1e6:.1f} MB; "
            "name it with --lesion-maps"
        )
