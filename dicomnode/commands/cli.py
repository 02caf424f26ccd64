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
from dicomnode.commands import cli_files, node, notifications, rules, story, users
from dicomnode.commands.cli_models import models_cli
from dicomnode.commands.options import (
    ConfigOption,
    FilesConfigOption,
    JsonOption,
    UsersFileOption,
    config_path,
    load,
    load_for_files,
)
from dicomnode.commands.quiet import silence_libraries
from dicomnode.errors import NodeError, StartError
from dicomnode.processes import app
from dicomnode.processes.monitor import run_monitor
from dicomnode.processes.usable import check_files

cli = typer.Typer(
    name="dicomnode",
    no_args_is_help=True,
    add_completion=False,
    help="The stroke-lesion PACS node. For research use only.",
)
config_cli = typer.Typer(no_args_is_help=True, help="Check or show the configuration.")
cli.add_typer(config_cli, name="config")
users_cli = typer.Typer(no_args_is_help=True, help="Who may log in to the pages.")
cli.add_typer(models_cli, name="models")
rules_cli = typer.Typer(no_args_is_help=True, help="The site's rules on studies.")
cli.add_typer(rules_cli, name="rules")
notifications_cli = typer.Typer(no_args_is_help=True, help="Who is told what happens.")
cli.add_typer(notifications_cli, name="notifications")
cli.add_typer(users_cli, name="users")


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


@cli.callback(invoke_without_command=True)
def _global(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"dicomnode {__version__}")
        raise typer.Exit


@cli.command()
def serve(config: ConfigOption = None) -> None:
    """Run the whole node: receive and work as two processes, and the pages where web.enabled is set."""
    path = config_path(config)
    app.run_serve(load(path), path)


@cli.command()
def receive(config: ConfigOption = None) -> None:
    """Run the receiving side only: C-ECHO and C-STORE into the spool."""
    path = config_path(config)
    app.run_receive(load(path), path)


@cli.command()
def work(config: ConfigOption = None) -> None:
    """Run the working side only: assess, segment, report, deliver."""
    path = config_path(config)
    app.run_work(load(path), path)


@cli.command()
def web(config: ConfigOption = None) -> None:
    """Serve the pages only: studies, viewer, upload, node (docs/web.md)."""
    path = config_path(config)
    app.run_web(load(path), path)


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
    users.add(load(config), file, name, role)


@users_cli.command("remove")
def users_remove(
    name: Annotated[str, typer.Argument(help="Who may not log in any more.")],
    file: UsersFileOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a user away."""
    users.remove(load(config), file, name)


@users_cli.command("list")
def users_list(
    file: UsersFileOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the users and their roles."""
    users.show(load(config), file, as_json)


@cli.command()
def monitor(config: ConfigOption = None) -> None:
    """Answer monitoring programs, and notify, only: /metrics, /healthz, /readyz and [[notifications]]."""
    path = config_path(config)
    run_monitor(load(path), path)


@cli.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for what comes back.")] = Path(
        "demo-out"
    ),
    timeout_s: Annotated[float, typer.Option("--timeout", help="Give up after so many seconds.")] = 600,
) -> None:
    """Send one synthetic study through a whole node and show what comes back."""
    raise typer.Exit(0 if node.demo(output, timeout_s) else 1)


cli.command()(cli_files.segment)


cli.command()(cli_files.bids)


cli.command()(cli_files.evaluate)


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
        0 if node.send(inputs, to, calling, timeout_s, load_for_files(config).tls if tls else None) else 1
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
    raise typer.Exit(0 if node.pull(load(config), study, source, as_json) else 1)


@cli.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the studies and where each stands."""
    story.show_status(load(config), as_json)


@cli.command()
def why(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or the end of one.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what happened to a study, and why."""
    story.show_why(load(config), study, as_json)


@cli.command()
def retry(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or the end of one.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a study again, or deliver again what was given up."""
    story.retry(load(config), study, as_json)


cli.command()(cli_files.replay)


@cli.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the set-up and say what to change."""
    raise typer.Exit(0 if node.doctor(load(config), as_json) else 1)


@config_cli.command("check")
def config_check(
    config: ConfigOption = None,
    with_files: Annotated[
        bool, typer.Option("--files", help="Read the certificates and model bundles that it names, too.")
    ] = False,
) -> None:
    """Check the configuration; every problem is printed with its key."""
    path = config_path(config)
    settings = load(path)
    if with_files:
        check_files(settings)
    typer.echo(f"{path or 'The default configuration'} is valid.")


@config_cli.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print the configuration in force as JSON."""
    typer.echo(load(config).model_dump_json(indent=2))


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
    rules.test_rules(load(config), folder, calling, called, at, as_json)


@notifications_cli.command("test")
def notifications_test(
    name: Annotated[
        str | None, typer.Argument(help="Name of one of [[notifications]]; all when absent.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message to every address, and say which service took it."""
    raise typer.Exit(0 if notifications.test_notifications(load(config), name, as_json) else 1)
