"""The commands and their exit codes; no logic.

Exit codes: 0 done; 1 something was found wrong or not done (it is printed); 2 a wrong command line or
setting; 3 could not start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dicomnode import __version__
from dicomnode.commands import files, models, node, notifications, rules, story, users
from dicomnode.commands.quiet import silence_libraries
from dicomnode.errors import ConfigError, NodeError, StartError
from dicomnode.processes import app
from dicomnode.processes.monitor import run_monitor
from dicomnode.processes.usable import check_files
from dicomnode.records import Role
from dicomnode.settings.config import Config, load_config

DEFAULT_CONFIG = Path("/etc/dicomnode/dicomnode.toml")

cli = typer.Typer(
    name="dicomnode",
    no_args_is_help=True,
    add_completion=False,
    help="The stroke-lesion PACS node. For research use only.",
)
config_cli = typer.Typer(no_args_is_help=True, help="Check or show the configuration.")
models_cli = typer.Typer(no_args_is_help=True, help="The model bundles.")
cli.add_typer(config_cli, name="config")
users_cli = typer.Typer(no_args_is_help=True, help="Who may log in to the pages.")
cli.add_typer(models_cli, name="models")
rules_cli = typer.Typer(no_args_is_help=True, help="The site's rules on studies.")
cli.add_typer(rules_cli, name="rules")
notifications_cli = typer.Typer(no_args_is_help=True, help="Who is told what happens.")
cli.add_typer(notifications_cli, name="notifications")
cli.add_typer(users_cli, name="users")

FilesConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="DICOMNODE_CONFIG",
        help="TOML file; without it the defaults: no node is needed here.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="DICOMNODE_CONFIG",
        help=f"TOML file; without it {DEFAULT_CONFIG} when that exists, else the defaults.",
    ),
]
UsersFileOption = Annotated[
    Path | None, typer.Option("--file", help="File of users; without it web.users of the configuration.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake prints one message and no traceback."""
    silence_libraries()
    try:
        cli()
    except StartError as problem:
        _stop(str(problem), problem.exit_code)
    except NodeError as problem:
        _stop(str(problem), 1)
    except OSError as problem:
        # A disk that is full, a folder that may not be written to: the operating system has said it all.
        if not problem.filename:
            raise
        _stop(f"{problem.filename}: {problem.strerror}", 1)


def _stop(words: str, code: int) -> NoReturn:
    typer.echo(f"dicomnode: {words}", err=True)
    sys.exit(code)


def _path(config: Path | None) -> Path | None:
    try:
        return config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    except PermissionError:
        raise ConfigError(
            [
                (
                    f"{DEFAULT_CONFIG}: may not be read by this user; run it as the service user (sudo -u "
                    "dicomnode), or give --config"
                )
            ]
        ) from None


def _load(config: Path | None) -> Config:
    path = _path(config)
    return load_config(path) if path else Config()


def _load_for_files(config: Path | None) -> Config:
    """Read the configuration that is named, or the defaults where none is.

    Work on files needs no node, so the node's own configuration is not looked at.
    """
    return load_config(config) if config else Config()


@cli.callback(invoke_without_command=True)
def _global(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"dicomnode {__version__}")
        raise typer.Exit


@cli.command()
def serve(config: ConfigOption = None) -> None:
    """Run the whole node: receive and work as two processes, and the pages where web.enabled is set."""
    path = _path(config)
    app.run_serve(_load(path), path)


@cli.command()
def receive(config: ConfigOption = None) -> None:
    """Run the receiving side only: C-ECHO and C-STORE into the spool."""
    path = _path(config)
    app.run_receive(_load(path), path)


@cli.command()
def work(config: ConfigOption = None) -> None:
    """Run the working side only: assess, segment, report, deliver."""
    path = _path(config)
    app.run_work(_load(path), path)


@cli.command()
def web(config: ConfigOption = None) -> None:
    """Serve the pages only: studies, viewer, upload, node (docs/web.md)."""
    path = _path(config)
    app.run_web(_load(path), path)


@users_cli.command("add")
def users_add(
    name: Annotated[str, typer.Argument(help="Name to log in with.")],
    role: Annotated[
        str,
        typer.Option(
            "--role", help="reader, operator or administrator; each may do what those before it may."
        ),
    ] = "reader",
    file: UsersFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a user or change a password; it is asked for, or read from standard input."""
    users.add(_load(config), file, name, role)


@users_cli.command("remove")
def users_remove(
    name: Annotated[str, typer.Argument(help="Who may not log in any more.")],
    file: UsersFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a user away."""
    users.remove(_load(config), file, name)


@users_cli.command("list")
def users_list(
    file: UsersFileOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the users and their roles."""
    users.show(_load(config), file, as_json)


@cli.command()
def monitor(config: ConfigOption = None) -> None:
    """Answer monitoring programs, and notify, only: /metrics, /healthz, /readyz and [[notifications]]."""
    path = _path(config)
    run_monitor(_load(path), path)


@cli.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what comes back.")] = Path(
        "demo-out"
    ),
    timeout_s: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds.")] = 600,
) -> None:
    """Send one synthetic study through a whole node and show what comes back."""
    raise typer.Exit(0 if node.demo(output, timeout_s) else 1)


@cli.command()
def segment(
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="DICOM files or folders, or a BIDS dataset.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results: a BIDS derivative dataset.")
    ] = Path("segment-out"),
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 as NIfTI, instead of DICOM.")] = None,
    flair: Annotated[Path | None, typer.Option("--flair", help="FLAIR as NIfTI, instead of DICOM.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Lesion bundle: name or name/version.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0.001, max=0.999, help="Lesion probability threshold.")
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option("--peak", min=0.0, max=0.999, help="What a lesion must somewhere reach; 0: nothing."),
    ] = None,
    prior: Annotated[
        Path | None, typer.Option("--prior", help="Earlier DICOM study with its seg.dcm, to compare with.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that keeps slow steps; without it the configured one."),
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            "--select", help="Decides where a BIDS session has several images of a kind, such as run-1."
        ),
    ] = "",
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, max=64, help="Cases at a time, each in a process of its own."),
    ] = 1,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Answer again what an earlier run answered with the same settings."),
    ] = False,
    config: FilesConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment DICOM studies, NIfTI volumes or a BIDS dataset offline, by the path that the node uses."""
    given: dict[Role, Path | None] = {"flair": flair, "t1": t1}
    images = {role: path for role, path in given.items() if path}
    settings = files.choose(
        _load_for_files(config), lesion_model=model, threshold=threshold, peak=peak, cache=cache
    )
    fine = files.segment(settings, inputs or [], output, images, select, jobs, overwrite, as_json, prior)
    raise typer.Exit(0 if fine else 1)


@cli.command()
def bids(
    inputs: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")] = Path("bids-out"),
    link: Annotated[
        Path | None,
        typer.Option(
            "--link",
            help="File that links subjects to patients; without it OUTPUT-link.json beside the dataset.",
        ),
    ] = None,
    dates: Annotated[
        bool,
        typer.Option("--dates", help="Write when each session was; without it no day is in the dataset."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Convert again what an earlier run converted.")
    ] = False,
    config: FilesConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn DICOM studies into a BIDS dataset without names; faces are not removed."""
    raise typer.Exit(
        0 if files.bids(_load_for_files(config), inputs, output, link, dates, overwrite, as_json) else 1
    )


@cli.command()
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(help="Predicted masks: a folder (NIfTI, BIDS derivatives or DICOM-SEG) or one file."),
    ],
    truth: Annotated[
        Path,
        typer.Argument(help="True masks, as the predictions; cases are matched by subject or by file name."),
    ],
    against: Annotated[
        Path | None, typer.Option("--against", help="Predictions of another method, to compare case by case.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for tables and pictures.")] = Path(
        "evaluate-out"
    ),
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="Which files are predictions, such as '**/*_label-L_mask.nii.gz'."),
    ] = None,
    truth_pattern: Annotated[
        str | None, typer.Option("--truth-pattern", help="Which files are truths.")
    ] = None,
    against_pattern: Annotated[
        str | None, typer.Option("--against-pattern", help="Which files are the other method's.")
    ] = None,
    bins: Annotated[
        str, typer.Option("--bins", help="Where the size bins of true volume part, in ml.")
    ] = "1,5,20,80",
    minimum_lesion_ml: Annotated[
        float,
        typer.Option(
            "--minimum-lesion-ml", min=0, help="Smaller lesions are not counted in the lesion-wise figures."
        ),
    ] = 0.0,
    margin: Annotated[
        float, typer.Option("--margin", min=1e-9, help="Mean Dice difference that does not matter (TOST).")
    ] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap intervals.")] = 20240529,
    as_json: JsonOption = False,
) -> None:
    """Measure masks against their truths; with --against, compare two methods."""
    methods = [(predictions, pattern), *([(against, against_pattern)] if against else [])]
    files.evaluate(methods, (truth, truth_pattern), output, bins, minimum_lesion_ml, margin, seed, as_json)


@cli.command()
def send(
    inputs: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    to: Annotated[str, typer.Option("--to", help="Receiver as AE@host:port.")],
    calling: Annotated[str, typer.Option("--calling", help="AE title that we call ourselves.")] = "SIMULATOR",
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Longest wait for an answer, in seconds.")
    ] = 60,
    tls: Annotated[bool, typer.Option("--tls", help="With TLS, by the [tls] of the configuration.")] = False,
    config: FilesConfigOption = None,
) -> None:
    """Send DICOM files by C-STORE, as a scanner does."""
    raise typer.Exit(
        0 if node.send(inputs, to, calling, timeout_s, _load_for_files(config).tls if tls else None) else 1
    )


@cli.command()
def pull(
    study: Annotated[str, typer.Option("--study", help="Study Instance UID.")],
    source: Annotated[
        str, typer.Option("--from", help="A destination's name, a peer's AE title, or AE@host:port.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the MR series of a study from a PACS; the node then answers it as if it had been sent."""
    raise typer.Exit(0 if node.pull(_load(config), study, source, as_json) else 1)


@cli.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the studies and where each stands."""
    story.show_status(_load(config), as_json)


@cli.command()
def why(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or the end of one.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what happened to a study, and why."""
    story.show_why(_load(config), study, as_json)


@cli.command()
def retry(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or the end of one.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a study again, or deliver again what was given up."""
    story.retry(_load(config), study, as_json)


@cli.command()
def replay(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or the end of one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "replay-out"
    ),
    model: Annotated[str | None, typer.Option("--model", help="Lesion bundle: name or name/version.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0.001, max=0.999, help="Lesion probability threshold.")
    ] = None,
    peak: Annotated[
        float | None,
        typer.Option("--peak", min=0.0, max=0.999, help="What a lesion must somewhere reach; 0: nothing."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that keeps slow steps; without it the configured one."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a received study again into a folder, perhaps with another threshold or model.

    Nothing is sent or changed.
    """
    changes = {"lesion_model": model, "threshold": threshold, "peak": peak, "cache": cache}
    raise typer.Exit(0 if files.replay(_load(config), study, output, as_json, **changes) else 1)


@cli.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the set-up and say what to change."""
    raise typer.Exit(0 if node.doctor(_load(config), as_json) else 1)


@config_cli.command("check")
def config_check(
    config: ConfigOption = None,
    with_files: Annotated[
        bool, typer.Option("--files", help="Read the certificates and model bundles that it names, too.")
    ] = False,
) -> None:
    """Check the configuration; every problem is printed with its key."""
    path = _path(config)
    settings = _load(path)
    if with_files:
        check_files(settings)
    typer.echo(f"{path or 'The default configuration'} is valid.")


@config_cli.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print the configuration in force as JSON."""
    typer.echo(_load(config).model_dump_json(indent=2))


@rules_cli.command("test")
def rules_test(
    folder: Annotated[Path, typer.Argument(help="DICOM files or a folder of them.")],
    calling: Annotated[str, typer.Option("--calling", help="AE title of the sender.")] = "",
    called: Annotated[str, typer.Option("--called", help="AE title of ours that it calls.")] = "",
    at: Annotated[str, typer.Option("--at", help="Local time at which they come, such as 23:30.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which rule studies would be answered by, and why not by the others."""
    rules.test_rules(_load(config), folder, calling, called, at, as_json)


@notifications_cli.command("test")
def notifications_test(
    name: Annotated[
        str | None, typer.Argument(help="Name of one of [[notifications]]; all when absent.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message to every address, and say which service took it."""
    raise typer.Exit(0 if notifications.test_notifications(_load(config), name, as_json) else 1)


@models_cli.command("list")
def models_list(config: FilesConfigOption = None, as_json: JsonOption = False) -> None:
    """List the model bundles."""
    models.list_models(_load_for_files(config), as_json)


@models_cli.command("show")
def models_show(
    name: Annotated[str, typer.Argument(help="name or name/version")], config: FilesConfigOption = None
) -> None:
    """Print a bundle's manifest and card."""
    models.show_model(_load_for_files(config), name)


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
    raise typer.Exit(0 if models.verify_models(_load_for_files(config), name, as_json, quick=quick) else 1)


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
        _load_for_files(config),
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
    models.import_onnx(_load_for_files(config), file, manifest)


@models_cli.command("remove")
def models_remove(
    name: Annotated[str, typer.Argument(help="name/version, or name when there is one")],
    config: FilesConfigOption = None,
) -> None:
    """Take a bundle away."""
    models.remove_model(_load_for_files(config), name)


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
        0 if models.benchmark_models(_load_for_files(config), name, provider or [], as_json) else 1
    )
