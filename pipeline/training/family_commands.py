"""Commands that export bundles of several networks.

`python -m pipeline.training export-triplanar|export-proposal`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.training.bounds import run_seed, whole

Choosing = Annotated[
    int | None, whole("how many of them settle the thresholds; every second one when absent", least=0)
]
Maps = Annotated[
    Path | None, typer.Option("--lesion-maps", help="folder of real lesion maps in MNI space (NIfTI)")
]


def export_triplanar(
    axial: Annotated[Path, typer.Option(help="checkpoint of the task triplanar-axial")],
    coronal: Annotated[Path, typer.Option(help="checkpoint of the task triplanar-coronal")],
    sagittal: Annotated[Path, typer.Option(help="checkpoint of the task triplanar-sagittal")],
    samples: Annotated[Path, typer.Option(help="folder for the held-out samples; made when missing")],
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    version: str = "0.1.0",
    count: Annotated[int, whole("how many held-out samples")] = 40,
    choosing: Choosing = None,
    proved: Annotated[
        int, whole("on how many fresh cases to compare the exported files with torch", least=2)
    ] = 6,
    seed: Annotated[int, run_seed("that of the run, for the manifest")] = 0,
    compute: str = "2 CPU cores, bf16",
    sections: Annotated[
        Path | None, typer.Option(help="JSON: heading to Markdown, further parts of the card")
    ] = None,
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
    lesion_maps: Maps = None,
) -> None:
    """Write the bundle of three 2D networks and their majority."""
    from pipeline.training.card_tables import read_sections
    from pipeline.training.checkpoint import load_checkpoint
    from pipeline.training.families.table import TASKS
    from pipeline.training.families.triplanar import export_triplanar as write

    checkpoint_paths = {"axial": axial, "coronal": coronal, "sagittal": sagittal}
    planes = {
        plane: load_checkpoint(path, TASKS[f"triplanar-{plane}"].architecture)
        for plane, path in checkpoint_paths.items()
    }
    held_samples = _held_out(samples, "triplanar-axial", count, choosing, lesion_maps, threads)
    training = {"seed": seed, "compute": compute}
    folder = write(
        planes,
        models,
        held_samples,
        version=version,
        training=training,
        sections=read_sections(sections),
        proved=proved,
    )
    typer.echo(f"wrote {folder}")


def export_proposal(
    proposal: Annotated[Path, typer.Option(help="checkpoint of the task proposal2d")],
    coarse: Annotated[Path, typer.Option(help="checkpoint of the task proposal-coarse")],
    region: Annotated[Path, typer.Option(help="checkpoint of the task proposal3d")],
    samples: Annotated[Path, typer.Option(help="folder for the held-out samples; made when missing")],
    models: Annotated[Path, typer.Option(help="folder of all bundles")] = Path("models"),
    version: str = "0.1.0",
    count: Annotated[int, whole("how many held-out samples")] = 40,
    choosing: Choosing = None,
    proved: Annotated[
        int, whole("on how many fresh cases to compare the exported files with torch", least=2)
    ] = 6,
    seed: Annotated[int, run_seed("that of the run, for the manifest")] = 0,
    compute: str = "2 CPU cores, bf16",
    sections: Annotated[
        Path | None, typer.Option(help="JSON: heading to Markdown, further parts of the card")
    ] = None,
    threads: Annotated[int, whole("threads of one process", most=1024)] = 1,
    lesion_maps: Maps = None,
) -> None:
    """Write the bundle of 2D proposals, a coarse pass and a 3D network for regions."""
    from pipeline.training.card_tables import read_sections
    from pipeline.training.checkpoint import load_checkpoint
    from pipeline.training.families.proposal3d import export_proposal as write
    from pipeline.training.families.table import TASKS

    checkpoint_paths = {"proposal3d": region, "proposal2d": proposal, "proposal-coarse": coarse}
    networks = {
        task: load_checkpoint(path, TASKS[task].architecture) for task, path in checkpoint_paths.items()
    }
    held_samples = _held_out(samples, "proposal3d", count, choosing, lesion_maps, threads)
    training = {"seed": seed, "compute": compute}
    folder = write(
        networks,
        models,
        held_samples,
        version=version,
        training=training,
        sections=read_sections(sections),
        proved=proved,
    )
    typer.echo(f"wrote {folder}")


def _held_out(
    samples: Path, task: str, count: int, choosing: int | None, lesion_maps: Path | None, threads: int
) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return the held-out samples that settle the thresholds, and those that are scored."""
    import torch

    from pipeline.training.families.table import TASKS
    from pipeline.training.pool import write_validation_set
    from pipeline.training.score import split_samples
    from pipeline.training.synthesis.lesion_maps import list_maps

    torch.set_num_threads(threads)
    unseen = list_maps(lesion_maps, held_out=True) if lesion_maps else []
    return split_samples(write_validation_set(samples, TASKS[task], count, unseen), choosing)
