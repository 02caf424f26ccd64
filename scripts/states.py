"""Draw docs/states.md from the transition tables of dicomnode/states.py.

It is run as `python -m scripts.states`. `--check` only says whether the page is current.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from dicomnode.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, DeliveryState, JobState

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"

JOB_MEANINGS = {
    JobState.WAITING: "instances are coming in, or come again after a failure; "
    "complete by evidence or by quiet time?",
    JobState.READY: "complete: the reason is kept; the next free worker takes it",
    JobState.RUNNING: "a worker holds it with a lease; an expired lease makes it ready again",
    JobState.ENCODED: "answered: the results are frozen in the spool, their deliveries are due",
    JobState.DONE: "every delivery has arrived or was withdrawn",
    JobState.FAILED: "not even a report could be made; `dicomnode retry` makes it ready again, "
    "the same images sent again make it wait anew",
    JobState.SUPERSEDED: "newer instances opened the next revision of the study",
}
DELIVERY_MEANINGS = {
    DeliveryState.DUE: "to be sent at `next_attempt_at`",
    DeliveryState.SENDING: "a sender holds it with a lease; an expired lease makes it due again",
    DeliveryState.SENT: "the destination answered success",
    DeliveryState.CONFIRMED: "the destination was asked and has it",
    DeliveryState.GIVEN_UP: "refused for good, or failed for too long; `dicomnode retry` makes it due again",
    DeliveryState.WITHDRAWN: "superseded before it left",
}

State = TypeVar("State", bound=StrEnum)


def diagram(transitions: Mapping[State, frozenset[State]]) -> str:
    """Return a table of transitions as a mermaid state diagram, in the order of the states."""
    order = list(transitions)
    lines = ["stateDiagram-v2", f"    [*] --> {order[0].value}"]
    for state, targets in transitions.items():
        lines += [f"    {state.value} --> {target.value}" for target in sorted(targets, key=order.index)]
        if not targets:
            lines.append(f"    {state.value} --> [*]")
    return "\n".join(["```mermaid", *lines, "```"])


def meanings(table: Mapping[State, str]) -> str:
    """Return what each state means, as a table."""
    return "\n".join(
        [
            "| state | meaning |",
            "|---|---|",
            *[f"| `{state.value}` | {meaning} |" for state, meaning in table.items()],
        ]
    )


def page() -> str:
    """Return the whole page."""
    return f"""# Life cycles

Drawn by `python -m scripts.states` from `dicomnode/states.py`; do not edit. Every change of a state goes
through `dicomnode.states.advance`.

## A job: one try to answer one study at one revision

{diagram(JOB_TRANSITIONS)}

{meanings(JOB_MEANINGS)}

The outcome of a job is not a state: the study is answered in each case. It is `lesions`, `negative`,
`undetermined` (nothing was found, and the images do not allow to say that nothing is there: no FLAIR was
used, or a part of the brain is missing), `refused` or `failed`.

A study whose processing failed (the outcome, with a failure report or without) is tried again when its images
are sent again: whoever reads "processing failed" in the PACS need only send it once more. After the quiet
time it is assessed anew, with all its tries, and what has not left yet of the failure report is withdrawn.
This happens three times; then an archive that sends a study back at each report would keep it going for ever,
and only `dicomnode retry`, or an image that was not there before, begins afresh. The same images of a study
that ended well, or was refused, change nothing.

Other bytes under the same SOP Instance UIDs are a correction when they carry another patient or order (name,
ID and its issuer, date of birth, sex, accession number, Study ID). The newest counts, and a study that was
answered already opens its next revision: new results with UIDs of their own, whose report names the earlier
one as its predecessor. While such a correction arrives, the study waits for the rest of it. When only a half
came and `study.quiet_s` has passed, the study is refused (`patients-differ`); the other half opens the next
revision. Other bytes for the same patient change nothing: the first count.

## A delivery: one result on its way to one destination

{diagram(DELIVERY_TRANSITIONS)}

{meanings(DELIVERY_MEANINGS)}
"""


def main() -> int:
    """Write the page, or with `--check` return 1 when it is not current."""
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
