"""Write docs/architecture.md from the tables of the code: `python -m scripts.architecture`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dicomnode import errors
from scripts.house import ROOMS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"

HEADER = """\
# Architecture

Written by `python -m scripts.architecture` from `scripts/house.py` (rooms) and `dicomnode/errors.py` (errors); tests hold this page
against them. The life cycles of jobs and deliveries are drawn in [states.md](states.md). Where to begin reading: `dicomnode/flow.py`.

Data flows one way:

```
association -> spool -> ledger -> study -> volume -> pipeline -> results -> delivery
 network/      spool/   ledger/   study/   volumes/  pipeline/   results/   delivery/
```

`dicomnode receive` (network, spool, ledger) and `dicomnode work` (everything after the ledger) are two processes that share only the
ledger and the spool: a crash in inference cannot drop an association. `dicomnode serve` runs both. Studies are computed in a worker
process of Dask distributed.
"""


def render() -> str:
    """Return the whole page."""
    return "\n".join([HEADER, *_rooms(), *_arrow(), *_errors()]) + "\n"


def _rooms() -> Iterator[str]:
    yield "## Rooms\n"
    yield "A test holds every import of the tree against this table. Besides what is named, a room may import itself, the standard library"
    yield "and `structlog`.\n"
    yield "| room | what lives there | may import of ours | libraries |"
    yield "|---|---|---|---|"
    for room in ROOMS:
        yield f"| `{room.name}` | {room.what} | {_names(room.rooms)} | {_names(room.libraries)} |"
    yield ""


def _names(names: tuple[str, ...]) -> str:
    if names == ("*",):
        return "anything"
    return ", ".join(name.removeprefix("dicomnode.") for name in names) or "-"


def _arrow() -> Iterator[str]:
    """Draw who imports whom among the rooms that do work; the ones that all know are left out."""
    known_to_all = {
        "dicomnode.settings",
        "dicomnode.errors",
        "dicomnode.records",
        "dicomnode.states",
        "pipeline.errors",
        "pipeline.records",
    }
    drawn = [room for room in ROOMS if room.name not in known_to_all and "*" not in room.rooms]
    names = {room.name for room in drawn}
    yield "## Who may import whom\n"
    yield "Left out: what every room knows (configuration, errors, records, states), and `processes/app` and `commands`, which join everything.\n"
    yield "```mermaid"
    yield "flowchart LR"
    for room in drawn:
        yield from (f"    {_node(room.name)} --> {_node(target)}" for target in room.rooms if target in names)
    yield "```\n"


def _node(name: str) -> str:
    short = name.removeprefix("dicomnode.")
    return f"{short.replace('.', '_')}[{short.replace('.', '/')}]"


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "Split by what happens next (`dicomnode/errors.py`):\n"
    tree = (errors.__doc__ or "").split("\n\n", 1)[1].rstrip()
    yield f"```\n{tree}\n```"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
