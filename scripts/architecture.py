"""Write docs/architecture.md from the tables of the code: `python -m scripts.architecture`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dicomnode import errors
from scripts.house import ROOMS
from scripts.house_figures import measure

TARGET = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"

HEADER = """\
# Architecture

Written by `python -m scripts.architecture` from `scripts/house.py` (rooms) and `dicomnode/errors.py`
(errors); tests hold this page against them. The life cycles of jobs and deliveries are drawn in
[states.md](states.md). Where to begin reading: `dicomnode/flow.py`.

Data flows one way:

```
association -> spool -> ledger -> study -> volume -> pipeline -> results -> delivery
 network/      spool/   ledger/   study/   volumes/  pipeline/   results/   delivery/
```

`dicomnode receive` (network, spool, ledger) and `dicomnode work` (everything after the ledger) are two
processes that share only the ledger and the spool: a crash in inference cannot drop an association.
`dicomnode serve` runs both. Studies are computed in a worker process of Dask distributed.
"""

WALKS = """\
## Four walks of a maintainer

| to add or change | touch |
|---|---|
| a family of networks | `pipeline/segmenters/NAME/` (`spec.py` reads its table of the manifest, \
`segment.py` runs it) and one row in `pipeline/segmenters/families.py`; to train it, \
`pipeline/training/families/NAME.py` |
| a measurement | three files: its function, and the call of it, in `pipeline/measure/shape.py` \
(of the signal: `intensity.py`); one row in `dicomnode/results/words/measured.py` (name, code, unit, column, \
BIDS words); and, where the report codes it, one row in the gate's own table, \
`dicomnode/results/verify/expected_codes.py` |
| the rule when a study is complete | `dicomnode/study/assembly.py` (`readiness`); its settings in \
`dicomnode/settings/study.py` |
| a page of the web monitor | its view and its template in `dicomnode/web/`; what it shows comes from the \
frozen records of `dicomnode/ledger/history.py` |

A family or a measurement that is forgotten in its table fails a test, and in production is an error with its
name.
"""


FIGURES = "## Figures of the house"


def render(*, figures: bool = True) -> str:
    """Return the whole page; without the figures it depends on the tables only."""
    sections = [HEADER, *_diagram(), *_rooms(), WALKS, *_errors()]
    return "\n".join([*sections, *_figures()] if figures else sections) + "\n"


def without_figures(page: str) -> str:
    """Return a page up to its figures, which change with every line of code."""
    return page.split(FIGURES, maxsplit=1)[0].rstrip() + "\n"


def _diagram() -> Iterator[str]:
    """Draw the rooms of the arrow and what stands around them.

    `scripts/house.py` holds every single import.
    """
    yield "## The house at a glance\n"
    yield "```mermaid"
    yield "flowchart LR"
    yield "    subgraph receive"
    yield "        network --> spool --> ledger"
    yield "    end"
    yield "    subgraph work"
    yield "        study --> volumes --> pipeline --> results --> delivery"
    yield "    end"
    yield "    ledger --> study"
    yield "    PACS([PACS, scanner]) --> network"
    yield "    delivery --> archive([archive, viewer])"
    yield "    commands -.-> processes -.-> receive & work"
    yield "```\n"
    yield (
        "Solid arrows are data, dotted ones start something. `flow.py` walks the working side from `ledger` "
        "to `delivery`; `answer.py` is the"
    )
    yield (
        "part of it that runs in a compute worker (`study` to `results`). Inside `pipeline/`, `run.py` holds "
        "the numbered steps.\n"
    )


def _rooms() -> Iterator[str]:
    yield "## Rooms\n"
    yield (
        "A test holds every import of the tree against `scripts/house.py`. Besides what is named, a room may "
        "import itself, the standard"
    )
    yield "library, `structlog` and `pipeline.counts`.\n"
    yield "| room | what lives there | may import of ours | libraries |"
    yield "|---|---|---|---|"
    for room in ROOMS:
        yield f"| `{room.name}` | {room.what} | {_names(room.rooms)} | {_names(room.libraries)} |"
    yield ""


def _names(names: tuple[str, ...]) -> str:
    if names == ("*",):
        return "anything"
    return ", ".join(name.removeprefix("dicomnode.") for name in names) or "-"


def _figures() -> Iterator[str]:
    root = TARGET.parent.parent
    yield f"\n{FIGURES}\n"
    yield (
        "`python -m scripts.house --measure`, of `dicomnode/` and `pipeline/` at the last release. "
        "`scripts/house_figures.py` says how each is counted.\n"
    )
    yield from measure([root / "dicomnode", root / "pipeline"]).table()


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "Split by what happens next (`dicomnode/errors.py`):\n"
    tree = (errors.__doc__ or "").split("\n\n", 1)[1].rstrip()
    yield f"```\n{tree}\n```"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
