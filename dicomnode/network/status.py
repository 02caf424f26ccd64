"""Every DIMSE status that the node answers, and what it makes of those it is answered.

Docs/conformance.md is drawn from these tables.

Rules for this file:
1. A status that is not in `ANSWERED` never goes on the wire; `handlers` takes them from here.
2. `judge` knows statuses only: what a broken association means is in `sender`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "transient", "permanent"]

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
CLASS_INSTANCE_CONFLICT = 0x0119
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
DATASET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class Answer:
    """One status of ours: when it is given, and the part of the standard that defines it."""

    status: int
    service: str
    meaning: str
    when: str
    source: str


ANSWERED = (
    Answer(SUCCESS, "C-ECHO", "Success", "always", "PS3.7 C.1.1"),
    Answer(
        SUCCESS,
        "C-STORE",
        "Success",
        (
            "the instance is on the disk: as a record in the journal, after a sync that began once it was "
            "written; or, without a journal or where that is full, as a file, fsynced, renamed into place, "
            "its folder fsynced; also for the same bytes again"
        ),
        "PS3.7 C.1.1",
    ),
    Answer(
        OUT_OF_RESOURCES,
        "C-STORE",
        "Refused: Out of resources",
        "too little free space, the disk refuses, or the ledger is locked; send it again later",
        "PS3.4 B.2.3",
    ),
    Answer(
        SOP_CLASS_NOT_SUPPORTED,
        "C-STORE",
        "Refused: SOP class not supported",
        "the SOP class is not that of the presentation context, or the context is for no storage class",
        "PS3.7 C.5.18",
    ),
    Answer(
        DATASET_DOES_NOT_MATCH,
        "C-STORE",
        "Error: Data set does not match SOP class",
        "SOP Class UID or SOP Instance UID of the dataset are others than those of the request",
        "PS3.4 B.2.3",
    ),
    Answer(
        CANNOT_UNDERSTAND,
        "C-STORE",
        "Error: Cannot understand",
        "the request has no dataset, or the SOP Instance UID of request or dataset is no UID",
        "PS3.4 B.2.3",
    ),
    Answer(
        PROCESSING_FAILURE,
        "C-STORE",
        "Processing failure",
        "an unexpected fault of the node; it is in the log",
        "PS3.7 C.5.15",
    ),
    Answer(
        SUCCESS,
        "N-ACTION",
        "Success",
        "the request for storage commitment is in the ledger; the report follows",
        "PS3.4 J.3.2",
    ),
    Answer(
        INVALID_ARGUMENT,
        "N-ACTION",
        "Invalid argument value",
        "no Transaction UID, no reference, or one that is no UID",
        "PS3.7 C.5.9",
    ),
    Answer(NO_SUCH_ACTION, "N-ACTION", "No such action", "the Action Type ID is not 1", "PS3.7 10.1.4.1.10"),
    Answer(
        RESOURCE_LIMITATION,
        "N-ACTION",
        "Resource limitation",
        "more than 10,000 references or 2 MiB in one request, or the ledger is locked",
        "PS3.7 C.5.19",
    ),
    Answer(
        PROCESSING_FAILURE,
        "N-ACTION",
        "Processing failure",
        "an unexpected fault of the node; it is in the log",
        "PS3.7 C.5.15",
    ),
    Answer(
        SUCCESS,
        "N-EVENT-REPORT",
        "Success",
        "the report on a transaction of ours is in the ledger",
        "PS3.4 J.3.3",
    ),
    Answer(
        INVALID_ARGUMENT,
        "N-EVENT-REPORT",
        "Invalid argument value",
        "the Transaction UID is not one of ours",
        "PS3.7 C.5.9",
    ),
    Answer(
        PROCESSING_FAILURE,
        "N-EVENT-REPORT",
        "Processing failure",
        "the report could not be kept; send it again",
        "PS3.7 C.5.15",
    ),
)


@dataclass(frozen=True)
class Judgement:
    """What statuses from `first` to `last` mean for an object that we sent."""

    first: int
    last: int
    verdict: Verdict
    meaning: str
    source: str


JUDGED = (
    Judgement(0x0000, 0x0000, "ok", "success", "PS3.7 C.1.1"),
    Judgement(0x0001, 0x0001, "ok", "stored, with a warning", "PS3.7 C.3"),
    Judgement(0x0107, 0x0107, "ok", "stored, with an attribute list warning", "PS3.7 C.4.2"),
    Judgement(0x0111, 0x0111, "ok", "the peer has this SOP Instance UID already", "PS3.7 C.5.4"),
    Judgement(0x0116, 0x0116, "ok", "stored, with an attribute value warning", "PS3.7 C.4.1"),
    Judgement(0x0110, 0x0110, "transient", "processing failure", "PS3.7 C.5.15"),
    Judgement(0x0213, 0x0213, "transient", "resource limitation", "PS3.7 C.5.19"),
    Judgement(0x0105, 0x0106, "permanent", "an attribute or its value is not accepted", "PS3.7 C.5"),
    Judgement(0x0112, 0x0115, "permanent", "the peer does not understand the request", "PS3.7 C.5"),
    Judgement(0x0117, 0x0121, "permanent", "the object is not valid for the peer", "PS3.7 C.5"),
    Judgement(0x0122, 0x0122, "permanent", "SOP class not supported", "PS3.7 C.5.18"),
    Judgement(0x0123, 0x0124, "permanent", "not authorized", "PS3.7 C.5"),
    Judgement(0x0210, 0x0212, "permanent", "the peer does not understand the request", "PS3.7 C.5"),
    Judgement(0xA700, 0xA7FF, "transient", "out of resources", "PS3.4 B.2.3"),
    Judgement(0xA900, 0xA9FF, "permanent", "the dataset does not match its SOP class", "PS3.4 B.2.3"),
    Judgement(
        0xB000, 0xB000, "ok", "stored, with coercion: the archive changed some of its elements", "PS3.4 B.2.3"
    ),
    Judgement(0xB001, 0xBFFF, "ok", "stored, with a warning", "PS3.4 B.2.3"),
    Judgement(0xFE00, 0xFE00, "transient", "cancelled by the peer", "PS3.7 C.2"),
    Judgement(0xC000, 0xCFFF, "permanent", "the peer cannot understand the object", "PS3.4 B.2.3"),
)

# A status that no table knows is tried again: the outbox gives up after its time and shows it, an object that
# is dropped is lost.
UNKNOWN = Judgement(0x0000, 0xFFFF, "transient", "a status that the standard does not know", "")


def judge(status: int) -> Judgement:
    """Return what a C-STORE status means for the object that was sent."""
    return next((rule for rule in JUDGED if rule.first <= status <= rule.last), UNKNOWN)
