"""Storage commitment (PS3.4 Annex J, Push Model): its datasets, asking for it, and telling whether it is.

Rules for this file:
1. Nothing that a peer does raises; a dataset that it sends is read with distrust.
2. It journals through what it is given and decides nothing: `delivery` and `commitment_scp` do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModelInstance

from dicomnode.network import status
from dicomnode.network.contexts import COMMITMENT
from dicomnode.network.dial import TAKES_NONE, associated, unanswered
from dicomnode.records import CommitmentReport, SendOutcome, SOPReference
from dicomnode.settings.config import DestinationSettings
from dicomnode.uids import is_uid

log = structlog.get_logger()

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NOT_OFFERED = "the peer does not offer storage commitment"
# How long a peer may take to report on the association on which it was asked; later it calls back.
LINGER_S = 3.0

_REQUEST, _ALL_SAFE, _SOME_FAILED = 1, 1, 2

# Says whether the transaction is one of ours.
JournalReport = Callable[[CommitmentReport], bool]


def encode_references(references: Iterable[SOPReference]) -> list[Dataset]:
    """Return the items of a Referenced SOP Sequence (PS3.3 C.14)."""
    items = []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID = reference.SOPClassUID
        item.ReferencedSOPInstanceUID = reference.SOPInstanceUID
        items.append(item)
    return items


def decode_references(items: Iterable[Dataset] | None) -> tuple[SOPReference, ...]:
    """Return what a Referenced SOP Sequence names; an item without a SOP Instance UID is left out."""
    pairs = (
        (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in items or ()
    )
    return tuple(SOPReference(*pair) for pair in pairs if pair[1])


def encode_report(report: CommitmentReport) -> tuple[Dataset, int]:
    """Return the Event Information and Event Type ID of an N-EVENT-REPORT (PS3.4 Table J.3-3)."""
    information = Dataset()
    information.TransactionUID = report.TransactionUID
    if report.committed:
        information.ReferencedSOPSequence = encode_references(report.committed)
    if not report.failed:
        return information, _ALL_SAFE
    information.FailedSOPSequence = encode_references(reference for reference, _ in report.failed)
    for item, (_, reason) in zip(information.FailedSOPSequence, report.failed, strict=True):
        item.FailureReason = reason
    return information, _SOME_FAILED


def decode_report(information: Dataset) -> CommitmentReport:
    """Return what an Event Information says."""
    failed = []
    for item in information.get("FailedSOPSequence") or ():
        reason = item.get("FailureReason")
        failed += [
            (reference, int(reason or status.PROCESSING_FAILURE)) for reference in decode_references([item])
        ]
    committed = decode_references(information.get("ReferencedSOPSequence"))
    return CommitmentReport(str(information.get("TransactionUID", "")), committed, tuple(failed))


def report_handler(journal: JournalReport) -> Callable[[Any], tuple[int, None]]:
    """Return the N-EVENT-REPORT handler (PS3.4 J.3.3): success only when the report is journalled.

    It never raises.

    Its answer has the form that pynetdicom asks for: the status, and no Event Reply, since Storage Commitment
    has none.
    """

    def answer_report(event: Any) -> tuple[int, None]:
        try:
            report = decode_report(event.event_information)
            if not is_uid(report.TransactionUID):
                return status.INVALID_ARGUMENT, None
            if journal(report):
                log.info(
                    "commitment_reported",
                    transaction=report.TransactionUID,
                    safe=len(report.committed),
                    failed=len(report.failed),
                )
                return status.SUCCESS, None
            log.warning("commitment_unknown", transaction=report.TransactionUID)
            return status.INVALID_ARGUMENT, None
        except Exception as fault:
            log.exception("commitment_report_failed", error=type(fault).__name__)
            return status.PROCESSING_FAILURE, None

    return answer_report


def ask_commitment(
    destination: DestinationSettings,
    references: Sequence[SOPReference],
    TransactionUID: str,
    *,
    calling_ae: str,
    timeout_s: float,
    journal: JournalReport,
) -> SendOutcome:
    """Ask a peer by N-ACTION to commit itself to instances.

    The peer's report is taken if it comes on this association.

    Returns
    -------
    SendOutcome
        "ok" when the peer took the request (whatever it then reports), "permanent" with reason `NOT_OFFERED`
        when it has no such service or refuses the request for good, else "transient".
    """
    taken, replied = threading.Event(), threading.Event()
    answer = report_handler(journal)

    def answer_and_note(event: Any) -> tuple[int, None]:
        reply = answer(event)
        taken.set()
        return reply

    def note_reply(event: Any) -> None:
        # Nothing but the reply is sent after the report was taken. A release that overtakes it would leave
        # the peer without one, and it would report again.
        if taken.is_set() and isinstance(event.pdu, P_DATA_TF):
            replied.set()

    contexts = [build_context(COMMITMENT, list(SYNTAXES))]
    serves = [(evt.EVT_N_EVENT_REPORT, answer_and_note), (evt.EVT_PDU_SENT, note_reply)]
    with associated(destination, calling_ae, timeout_s, contexts, serves=serves) as association:
        if isinstance(association, SendOutcome):
            return SendOutcome("permanent", NOT_OFFERED) if association.reason == TAKES_NONE else association
        outcome = _request(association, references, TransactionUID)
        if outcome.verdict == "ok":
            _wait(association, replied)
        return outcome


def send_report(
    destination: DestinationSettings, report: CommitmentReport, *, calling_ae: str, timeout_s: float
) -> SendOutcome:
    """Tell a peer over an association of ours what is safe.

    We are the SCP there, so the roles are negotiated (PS3.4 J.3.3).
    """
    contexts = [build_context(COMMITMENT, list(SYNTAXES))]
    roles = [build_role(COMMITMENT, scp_role=True)]
    with associated(destination, calling_ae, timeout_s, contexts, roles=roles) as association:
        return association if isinstance(association, SendOutcome) else report_on(association, report)


def report_on(association: Association, report: CommitmentReport) -> SendOutcome:
    """Send a report over an association that is there."""
    information, event_type = encode_report(report)
    try:
        answer, _ = association.send_n_event_report(
            information, event_type, COMMITMENT, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, ValueError, AttributeError) as problem:
        return SendOutcome("transient", f"the association broke off ({type(problem).__name__})")
    return _judge(association, getattr(answer, "Status", None))


def _request(
    association: Association, references: Sequence[SOPReference], TransactionUID: str
) -> SendOutcome:
    information = Dataset()
    information.TransactionUID = TransactionUID
    information.ReferencedSOPSequence = encode_references(references)
    try:
        answer, _ = association.send_n_action(
            information, _REQUEST, COMMITMENT, StorageCommitmentPushModelInstance
        )
    except (RuntimeError, ValueError, AttributeError) as problem:
        return SendOutcome("transient", f"the association broke off ({type(problem).__name__})")
    return _judge(association, getattr(answer, "Status", None))


def _judge(association: Association, code: int | None) -> SendOutcome:
    if code is None:
        return unanswered(association)
    judgement = status.judge(code)
    return SendOutcome(judgement.verdict, f"0x{code:04X}: {judgement.meaning}", code)


def _wait(association: Association, replied: threading.Event) -> None:
    """Wait for the report on the open association and for our reply; who breaks it off is not waited for."""
    left_s = LINGER_S
    while left_s > 0 and association.is_established and not replied.wait(min(0.1, left_s)):
        left_s -= 0.1
