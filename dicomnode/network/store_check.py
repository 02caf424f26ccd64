"""What a C-STORE request must be before a byte of it is written.

Of a class that the context is for, under UIDs that are UIDs.

The library checks the class of a request against its context (PS3.7 9.1.1); requests that go round the
library are checked here.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicomnode.network import status
from dicomnode.network.contexts import COMMITMENT, VERIFICATION
from dicomnode.network.first_elements import (
    SERIES_INSTANCE,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_INSTANCE,
    dataset_uids,
)
from dicomnode.network.handlers import StoreRequest
from dicomnode.uids import is_uid


@dataclass(frozen=True)
class StoreFault:
    """Why a request is refused: the status on the wire, and a sentence that quotes nothing."""

    status: int
    reason: str


def check_store(request: StoreRequest, abstract_syntax: str) -> StoreFault | None:
    """Return why a request is refused, or None (PS3.7 C.5, PS3.4 B.2.3)."""
    if abstract_syntax in (VERIFICATION, COMMITMENT) or request.SOPClassUID != abstract_syntax:
        return StoreFault(
            status.SOP_CLASS_NOT_SUPPORTED,
            "the SOP class of a C-STORE is not that of its presentation context",
        )
    if not is_uid(request.SOPInstanceUID):
        return StoreFault(status.CANNOT_UNDERSTAND, "the SOP Instance UID of a C-STORE is no UID")
    if request.too_large:
        return None
    return _check_dataset(request)


def _check_dataset(request: StoreRequest) -> StoreFault | None:
    """Return why a dataset is refused, by the UIDs that can be found in it without decoding it.

    A UID that is absent or empty says nothing: the study, or the line of no study, will show it.
    """
    uids = dataset_uids(request.encoded_dataset, request.TransferSyntaxUID)
    for tag, name in _REFUSED_UNLESS_UID.items():
        if uids.get(tag) and not is_uid(uids[tag]):
            return StoreFault(status.CANNOT_UNDERSTAND, f"the {name} UID of a dataset is no UID")
    if uids.get(SOP_CLASS, request.SOPClassUID) != request.SOPClassUID:
        return StoreFault(
            status.DATASET_DOES_NOT_MATCH, "the SOP class of a dataset is not that of its C-STORE"
        )
    if uids.get(SOP_INSTANCE, request.SOPInstanceUID) != request.SOPInstanceUID:
        return StoreFault(
            status.DATASET_DOES_NOT_MATCH, "the SOP Instance UID of a dataset is not that of its C-STORE"
        )
    return None


_REFUSED_UNLESS_UID = {
    SOP_INSTANCE: "SOP Instance",
    STUDY_INSTANCE: "Study Instance",
    SERIES_INSTANCE: "Series Instance",
}
