"""What a training shows: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(
    name: str, console: Console | None = None
) -> Iterator[tuple[Callable[[str], None], Callable[[float, str], None]]]:
    """Yield `report(line)` and `advance(progress, text)`.

    Where the output is no terminal, only the lines appear.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda line: console.print(line, markup=False), lambda progress, text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(name, total=1.0, text="")
        yield (
            lambda line: (
                bar.console.print(line, markup=False)
                if line.startswith(("validation", "this run", "interrupted"))
                else None
            ),
            lambda progress, text: bar.update(task, completed=progress, text=text),
        )
