"""What commands print with: one console, tables or JSON, a spinner on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

console = Console()
COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@contextmanager
def spinner(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show the step that runs and the time since the start, on standard error."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text: bar.update(task, description=text)


@contextmanager
def counter(quiet: bool, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Show how many of `total` are done and what is at work.

    Gives a function that tells the latter and one that counts one more.
    """
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(file=sys.stderr), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda text: bar.update(task, description=text), lambda: bar.advance(task)


def print_rows(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    as_json: bool,
    colours: Mapping[str, str] | None = None,
) -> None:
    """Print rows as a table, or as a JSON list of objects."""
    if as_json:
        typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
        return
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")  # Half a UID or a hash helps nobody.
    for row in rows:
        table.add_row(
            *(
                f"[{colours[cell]}]{cell}[/]" if colours and cell in colours else cell.replace("[", r"\[")
                for cell in row
            )
        )
    console.print(table)
