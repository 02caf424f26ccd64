"""What is answered: C-ECHO, and C-STORE as event -> spool -> ledger -> status.

Rules for this file:
1. A handler never raises: the one decorator below turns every fault into a status.
2. Nothing is decoded: a dataset is bytes here.
3. 0x0000 is returned in one place, after the spool and the ledger have both returned.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from dicomnode.errors import PeerError, RetryLater
from dicomnode.network import status
from dicomnode.records import AddOutcome, ReceivedInstance

log = structlog.get_logger()

AddInstance = Callable[[ReceivedInstance], AddOutcome]


class InstanceWriter(Protocol):
    """What receiving needs of the spool."""

    def write(
        self,
        encoded_dataset: bytes,
        *,
        SOPClassUID: str,
        SOPInstanceUID: str,
        TransferSyntaxUID: str,
        calling_ae: str,
        peer_host: str,
        now: float,
    ) -> ReceivedInstance:
        """Make an instance safe."""


def answers_with_status(handler: Callable[[Any], int]) -> Callable[[Any], int]:
    """Turn whatever a handler raises into the status that the peer is answered."""

    @functools.wraps(handler)
    def answer(event: Any) -> int:
        try:
            return handler(event)
        except PeerError as fault:
            log.warning("store_refused", status=f"0x{fault.status:04X}", reason=str(fault))
            return fault.status
        except RetryLater as fault:
            log.warning("store_refused", status=f"0x{status.OUT_OF_RESOURCES:04X}", reason=str(fault))
            return status.OUT_OF_RESOURCES
        except Exception:
            # Rule 1: an association must not end because one instance could not be handled.
            log.exception("store_failed")
            return status.PROCESSING_FAILURE

    return answer


def answer_echo(_event: Any) -> int:
    """C-ECHO (PS3.4 Annex A)."""
    return status.SUCCESS


def store_handler(writer: InstanceWriter, add_instance: AddInstance, clock: Callable[[], float]) -> Callable[[Any], int]:
    """Return the C-STORE handler (PS3.4 Annex B) that writes with `writer` and lists with `add_instance`."""

    @answers_with_status
    def answer_store(event: Any) -> int:
        request, association = event.request, event.assoc
        encoded_dataset = event.encoded_dataset(include_meta=False) if request.DataSet is not None else b""
        if not request.AffectedSOPInstanceUID or not encoded_dataset:
            return status.CANNOT_UNDERSTAND
        instance = writer.write(
            encoded_dataset,
            SOPClassUID=str(request.AffectedSOPClassUID),
            SOPInstanceUID=str(request.AffectedSOPInstanceUID),
            TransferSyntaxUID=str(event.context.transfer_syntax),
            calling_ae=association.requestor.ae_title.strip(),
            peer_host=association.requestor.address or "",
            now=clock(),
        )
        outcome = add_instance(instance)
        if outcome == "conflict":
            log.warning("other_bytes_for_same_uid", SOPInstanceUID=instance.SOPInstanceUID, path=instance.path)
        return status.SUCCESS

    return answer_store
