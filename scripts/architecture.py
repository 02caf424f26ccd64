"""Write docs/architecture.md from the tables of the code: `python -m scripts.architecture`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from dicomnode import errors
from dicomnode.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, DeliveryState, JobState
from scripts.house import ROOMS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"

_State = TypeVar("_State", bound=StrEnum)

HEADER = """\
# Architecture

Written by `python -m scripts.architecture` from `scripts/house.py` (rooms), `dicomnode/states.py` (life cycles) and
`dicomnode/errors.py` (errors); tests hold this page against them. Where to begin reading: `dicomnode/flow.py`.

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
    return "\n".join([HEADER, *_rooms(), *_arrow(), *_life_cycles(), *_errors()]) + "\n"


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
    known_to_all = {"dicomnode.config", "dicomnode.errors", "dicomnode.records", "dicomnode.states", "pipeline.errors", "pipeline.records"}
    drawn = [room for room in ROOMS if room.name not in known_to_all and "*" not in room.rooms]
    names = {room.name for room in drawn}
    yield "## Who may import whom\n"
    yield "Left out: what every room knows (configuration, errors, records, states), and `app` and `commands`, which join everything.\n"
    yield "```mermaid"
    yield "flowchart LR"
    for room in drawn:
        yield from (f"    {_node(room.name)} --> {_node(target)}" for target in room.rooms if target in names)
    yield "```\n"


def _node(name: str) -> str:
    short = name.removeprefix("dicomnode.")
    return f"{short.replace('.', '_')}[{short.replace('.', '/')}]"


def _life_cycles() -> Iterator[str]:
    yield "## Life cycle of a job\n"
    yield "One try to answer one study at one revision of its content. The outcome (lesions, negative, refused, failed) is not a state: a"
    yield "refused study is answered, too.\n"
    yield from _diagram(JOB_TRANSITIONS, JobState.WAITING)
    yield "## Life cycle of a delivery\n"
    yield "One result object on its way to one destination.\n"
    yield from _diagram(DELIVERY_TRANSITIONS, DeliveryState.DUE)


def _diagram(transitions: Mapping[_State, frozenset[_State]], first: _State) -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {first.value}"
    for state, targets in transitions.items():
        yield from (f"    {state.value} --> {target.value}" for target in sorted(targets))
        if not targets:
            yield f"    {state.value} --> [*]"
    yield "```\n"


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "Split by what happens next (`dicomnode/errors.py`):\n"
    tree = (errors.__doc__ or "").split("\n\n", 1)[1].rstrip()
    yield f"```\n{tree}\n```"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
