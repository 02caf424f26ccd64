"""What is answered: C-ECHO, and C-STORE as request -> spool -> ledger -> status.

Rules for this file:
1. A handler never raises: the one decorator below turns every fault into a status.
2. Nothing is decoded: a dataset is bytes here.
3. 0x0000 is returned in one place, after the spool and the ledger have both returned and the instance is
   still there. A spool that lists by itself what it has made safe stands for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import structlog

from dicomnode.errors import OutOfResources, PeerError, RetryLater
from dicomnode.network import status
from dicomnode.records import AddOutcome, Arrival, ReceivedInstance

log = structlog.get_logger()

_TRIES = 3

AddInstance = Callable[[ReceivedInstance], AddOutcome]


@dataclass(frozen=True)
class StoreRequest:
    """One C-STORE request: what the command set and the association say, and the dataset as it came."""

    SOPClassUID: str
    SOPInstanceUID: str
    TransferSyntaxUID: str
    encoded_dataset: bytes | bytearray
    calling_ae: str
    peer_host: str
    called_ae: str = ""
    # There was more of it than the node has memory for; the dataset is empty.
    too_large: bool = False


AnswerStore = Callable[[StoreRequest], int]


class InstanceWriter(Protocol):
    """What receiving needs of the spool."""

    def write(self, encoded_dataset: bytes | bytearray, **arrival: Unpack[Arrival]) -> ReceivedInstance:
        """Make an instance safe."""

    def holds(self, instance: ReceivedInstance) -> bool:
        """Return whether an instance is safe: its file is there, or what it will be made of."""


def answers_with_status(handler: AnswerStore) -> AnswerStore:
    """Turn whatever a handler raises into the status that the peer is answered."""

    @functools.wraps(handler)
    def answer(request: StoreRequest) -> int:
        try:
            return handler(request)
        except PeerError as fault:
            log.warning("store_refused", status=f"0x{fault.status:04X}", reason=str(fault))
            return fault.status
        except RetryLater as fault:
            log.warning("store_refused", status=f"0x{status.OUT_OF_RESOURCES:04X}", reason=str(fault))
            return status.OUT_OF_RESOURCES
        except Exception:
            # Rule 1: an association must not end because one instance could not be handled.
            log.exception("store_failed", SOPInstanceUID=request.SOPInstanceUID)
            return status.PROCESSING_FAILURE

    return answer


def answer_echo(_event: Any) -> int:
    """C-ECHO (PS3.4 Annex A)."""
    return status.SUCCESS


def store_handler(
    writer: InstanceWriter, add_instance: AddInstance | None, clock: Callable[[], float]
) -> AnswerStore:
    """Return the C-STORE handler (PS3.4 Annex B) that writes with `writer` and lists with `add_instance`.

    Without `add_instance` the writer sees to it that what it writes is listed.
    """

    @answers_with_status
    def answer_store(request: StoreRequest) -> int:
        if request.too_large:
            raise OutOfResources(
                "larger than network.maximum_instance_mb, or too much is received at once "
                "(network.receive_memory_mb)"
            )
        if not request.SOPInstanceUID or not request.encoded_dataset:
            return status.CANNOT_UNDERSTAND
        for _ in range(_TRIES):
            instance = writer.write(
                request.encoded_dataset,
                SOPClassUID=request.SOPClassUID,
                SOPInstanceUID=request.SOPInstanceUID,
                TransferSyntaxUID=request.TransferSyntaxUID,
                calling_ae=request.calling_ae,
                peer_host=request.peer_host,
                now=clock(),
                called_ae=request.called_ae,
            )
            if add_instance is not None and add_instance(instance) == "conflict":
                log.warning(
                    "other_bytes_for_same_uid", SOPInstanceUID=instance.SOPInstanceUID, path=instance.path
                )
            # Retention may have removed, in between, the file that was there from an earlier transfer.
            if writer.holds(instance):
                return status.SUCCESS
        raise OutOfResources("the instance was removed while it was listed")

    return answer_store
