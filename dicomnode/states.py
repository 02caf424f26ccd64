"""The life cycles of jobs and deliveries, as one transition table each.

Rules for this file:
1. Nothing here knows the ledger, the clock or the network; `advance` only says whether a change is allowed.
2. Every change of a state anywhere in the node goes through `advance`.

A job is one try to answer one study at one revision of its content. Its outcome (lesions found, none found,
refused, failed, excluded by a rule of the site) is not a state: a refused or failed study is answered too,
so it is `encoded` and `done` like any other. `failed` means that not even the report could be made;
`superseded` that newer images re-opened the study. A job whose outcome is failed waits anew when its images
are sent again; one that ended well is left alone then.

A delivery is one result object on its way to one destination. `sent` means that the peer answered success,
`confirmed` that it was asked and has it; one that does not have it is sent it again (`due`), and after some
times shown (`given_up`). `withdrawn` results were superseded before they left.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from dicomnode.errors import StateError


class JobState(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    ENCODED = "encoded"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    DUE = "due"
    SENDING = "sending"
    SENT = "sent"
    CONFIRMED = "confirmed"
    GIVEN_UP = "given_up"
    WITHDRAWN = "withdrawn"


class Outcome(StrEnum):
    """What the answer to a study says."""

    LESIONS = "lesions"
    NEGATIVE = "negative"
    UNDETERMINED = "undetermined"
    REFUSED = "refused"
    EXCLUDED = "excluded"
    FAILED = "failed"


JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.READY, JobState.SUPERSEDED}),
    JobState.READY: frozenset({JobState.RUNNING, JobState.SUPERSEDED}),
    JobState.RUNNING: frozenset({JobState.READY, JobState.ENCODED, JobState.FAILED, JobState.SUPERSEDED}),
    JobState.ENCODED: frozenset({JobState.WAITING, JobState.READY, JobState.DONE, JobState.SUPERSEDED}),
    JobState.DONE: frozenset({JobState.WAITING, JobState.READY, JobState.SUPERSEDED}),
    JobState.FAILED: frozenset({JobState.WAITING, JobState.READY, JobState.SUPERSEDED}),
    JobState.SUPERSEDED: frozenset(),
}

DELIVERY_TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.DUE: frozenset({DeliveryState.SENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.SENDING: frozenset({DeliveryState.DUE, DeliveryState.SENT, DeliveryState.GIVEN_UP}),
    DeliveryState.SENT: frozenset({DeliveryState.CONFIRMED, DeliveryState.DUE, DeliveryState.GIVEN_UP}),
    DeliveryState.CONFIRMED: frozenset({DeliveryState.DUE}),
    DeliveryState.GIVEN_UP: frozenset({DeliveryState.DUE, DeliveryState.WITHDRAWN}),
    DeliveryState.WITHDRAWN: frozenset(),
}


_State = TypeVar("_State", JobState, DeliveryState)


def advance(current: _State, target: _State) -> _State:
    """Return `target` when the table allows the change, else raise `StateError`."""
    allowed = JOB_TRANSITIONS[current] if isinstance(current, JobState) else DELIVERY_TRANSITIONS[current]
    if target not in allowed:
        raise StateError(f"{type(current).__name__} {current.value} may not become {target.value}")
    return target
