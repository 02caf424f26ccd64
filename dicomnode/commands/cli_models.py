"""`dicomnode models`: the model bundles; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dicomnode.commands import models
from dicomnode.commands.options import FilesConfigOption, JsonOption, load_for_files

models_cli = typer.Typer(no_args_is_help=True, help="The model bundles.")


@models_cli.command("list")
def models_list(config: FilesConfigOption = None, as_json: JsonOption = False) -> None:
    """List the model bundles."""
    models.list_models(load_for_files(config), as_json)


@models_cli.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="name or name/version")], config: FilesConfigOption = None
) -> None:
    """Print a bundle's manifest and card."""
    models.show_model(load_for_files(config), name)


@models_cli.command("verify")
def models_verify(
    name: Annotated[str | None, typer.Argument(help="name or name/version; all when absent")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the comparison with torch.")] = False,
    config: FilesConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check hashes, graph and a run of each bundle.

    Where torch is installed, compare its answers with torch's on 30 cases.
    """
    raise typer.Exit(0 if models.verify_models(load_for_files(config), name, as_json, quick=quick) else 1)


@models_cli.command("import-nnunet")
def models_import_nnunet(
    source: Annotated[Path, typer.Argument(help="nnU-Net v1 or v2 result folder, or a ZIP of it.")],
    channels: Annotated[
        str, typer.Option("--channels", help="Role of each channel in the network's order, such as flair,t1.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the bundle; without it the data set's.")
    ] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the bundle.")] = "1.0.0",
    orientation: Annotated[
        str,
        typer.Option("--orientation", help="Where the training images' column, row and slice index grow."),
    ] = "RAS",
    head: Annotated[
        str, typer.Option("--head", help="brain-extracted or whole-head: what the training images showed.")
    ] = "brain-extracted",
    folds: Annotated[str, typer.Option("--folds", help="Such as 0,1,4; without it every fold.")] = "",
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.001, max=0.999, help="Lesion probability threshold.")
    ] = 0.5,
    minimum_mm3: Annotated[
        float, typer.Option("--minimum-volume", min=0, help="Smaller lesions are dropped, in mm3.")
    ] = 0.0,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights, for the manifest.")] = "",
    grid: Annotated[
        str, typer.Option("--grid", help="Whose voxels the channels come onto: t1, flair, or reference.")
    ] = "reference",
    lesion_labels: Annotated[
        str, typer.Option("--lesion-label", help="Such as 1,2; without it the one foreground label.")
    ] = "",
    mirroring: Annotated[
        bool,
        typer.Option(
            "--mirroring/--no-mirroring", help="Average over flips as in training: up to 8 times the work."
        ),
    ] = True,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            help="float16, float32, or auto: Float16 where every case stays within 1e-4 of the original.",
        ),
    ] = "auto",
    case: Annotated[
        list[Path] | None,
        typer.Option(
            "--case", help="A case to compare with the original on (.npz); without it synthetic ones."
        ),
    ] = None,
    config: FilesConfigOption = None,
) -> None:
    """Install a trained nnU-Net as a bundle, after it answered as the original does."""
    models.import_nnunet(
        load_for_files(config),
        source,
        case or [],
        channels=channels,
        name=name,
        version=version,
        orientation=orientation,
        head=head,
        folds=folds,
        threshold=threshold,
        minimum_mm3=minimum_mm3,
        licence=licence,
        grid=grid,
        lesion_labels=lesion_labels,
        mirroring=mirroring,
        weights=weights,
    )


@models_cli.command("import-onnx")
def models_import_onnx(
    file: Annotated[Path, typer.Argument(help="The ONNX file.")],
    manifest: Annotated[
        Path, typer.Option("--manifest", help="A model.toml that says what it is (docs/model-bundle.md).")
    ],
    config: FilesConfigOption = None,
) -> None:
    """Install an ONNX file as a bundle."""
    models.import_onnx(load_for_files(config), file, manifest)


@models_cli.command("remove")
def models_remove(
    name: Annotated[str, typer.Argument(help="name/version, or name when there is one")],
    config: FilesConfigOption = None,
) -> None:
    """Take a bundle away."""
    models.remove_model(load_for_files(config), name)


@models_cli.command("benchmark")
def models_benchmark(
    name: Annotated[str | None, typer.Argument(help="name or name/version; all when absent")] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", help="cpu, cuda or openvino; without it all that are there."),
    ] = None,
    config: FilesConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure seconds and peak memory of bundles per provider."""
    raise typer.Exit(
        0 if models.benchmark_models(load_for_files(config), name, provider or [], as_json) else 1
    )
