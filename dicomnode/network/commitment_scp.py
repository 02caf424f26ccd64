"""Storage commitment for those who send to us.

N-ACTION is journalled, then what is really on the disk is reported.

Rules for this file:
1. A request is answered 0x0000 only after the ledger has it: what was promised an answer gets one, also after
   a restart.
2. An instance is called safe when it is listed and its file is there in full length; nothing is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from pynetdicom import evt
from pynetdicom.association import Association

from dicomnode.errors import RetryLater
from dicomnode.network import status
from dicomnode.network.commitment import (
    JournalReport,
    decode_references,
    report_handler,
    report_on,
    send_report,
)
from dicomnode.network.peers import peer_of
from dicomnode.records import CommitmentReport, CommitmentRequest, ReceivedInstance, SendOutcome, SOPReference
from dicomnode.settings.config import Config
from dicomnode.uids import is_uid

log = structlog.get_logger()

# A peer that releases at once after its N-ACTION is called back; one that stays hears it where it asked.
_SETTLE_S = 0.3
# A request whose answer never left (the process died, the peer was gone) is reported on after so long.
_PATIENCE_S = 5.0
_IDLE_S = 2.0
_WAITS_S = (5.0, 30.0, 120.0, 600.0, 3600.0)
_GIVE_UP_S = 72 * 3600.0
# A study of 10,000 instances is a large one; a longer list costs seconds of everybody's time.
_LARGEST_REQUEST = 10_000
_NO_PORT = "the peer hung up and has no port in [[peers]], so it cannot be told"

Holds = Callable[[ReceivedInstance], bool]


class CommitmentLedger(Protocol):
    """What answering storage commitment needs of the ledger (`dicomnode.ledger.commitments`)."""

    def ask(
        self,
        calling_ae: str,
        peer_host: str,
        TransactionUID: str,
        references: Sequence[SOPReference],
        now: float,
        due_at: float,
    ) -> None:
        """Note a request."""

    def due(self, now: float, limit: int = 16) -> list[CommitmentRequest]:
        """Return the requests that are to be answered."""

    def record(self, request: CommitmentRequest, status: str, due_at: float | None) -> None:
        """Note a try."""

    def stored(self, SOPInstanceUIDs: Sequence[str]) -> dict[str, list[ReceivedInstance]]:
        """Return what was received under each UID."""


def examine(
    request: CommitmentRequest, stored: dict[str, list[ReceivedInstance]], holds: Holds
) -> CommitmentReport:
    """Decide which of the requested instances are safe; Failure Reasons are those of PS3.3 C.14.1.1."""
    committed: list[SOPReference] = []
    failed: list[tuple[SOPReference, int]] = []
    for reference in request.references:
        reason = _failure(reference, stored.get(reference.SOPInstanceUID, []), holds)
        if reason is None:
            committed.append(reference)
        else:
            failed.append((reference, reason))
    return CommitmentReport(request.TransactionUID, tuple(committed), tuple(failed))


def _is_legal(reference: SOPReference) -> bool:
    return is_uid(reference.SOPClassUID) and is_uid(reference.SOPInstanceUID)


def _failure(reference: SOPReference, stored_instances: list[ReceivedInstance], holds: Holds) -> int | None:
    if not stored_instances:
        return status.NO_SUCH_INSTANCE
    of_class = [instance for instance in stored_instances if instance.SOPClassUID == reference.SOPClassUID]
    if not of_class:
        return status.CLASS_INSTANCE_CONFLICT
    # Of several with one UID each was acknowledged, so each must be there.
    return None if all(holds(instance) for instance in of_class) else status.PROCESSING_FAILURE


class CommitmentProvider:
    """Takes requests and answers them from a thread of its own, first where they came, then by calling back.

    Parameters
    ----------
    config
        Who we are, and the ports of those who may ask.
    ledger
        Keeps the requests.
    holds
        Whether an instance's file is there in full length.
    clock
        Seconds since the epoch.
    settle
        Returns when all that was acknowledged before is listed; may raise `RetryLater`.
    """

    def __init__(
        self,
        config: Config,
        ledger: CommitmentLedger,
        holds: Holds,
        clock: Callable[[], float],
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._holds = holds
        self._clock, self._settle = clock, settle
        self._asked: dict[Association, tuple[str, str]] = {}
        self._open: dict[tuple[str, str], Association] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def reconfigure(self, config: Config) -> None:
        """Answer by another configuration from now on."""
        self._config = config

    def start(self) -> None:
        """Begin to answer, also what was asked before a restart."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering; what is not answered yet is at the next start."""
        self._stopping = True
        self._wake.set()
        self._thread.join(5.0)

    def services(self, journal: JournalReport) -> tuple[tuple[Any, Callable[[Any], Any]], ...]:
        """Return (pynetdicom event, handler) pairs.

        Requests of others, and reports on what we asked for (kept by `journal`).
        """
        return (
            (evt.EVT_N_ACTION, self.answer_action),
            (evt.EVT_DIMSE_SENT, self._note_sent),
            (evt.EVT_N_EVENT_REPORT, report_handler(journal)),
        )

    def answer_action(self, event: Any) -> tuple[int, None]:
        """N-ACTION (PS3.4 J.3.2). It never raises."""
        try:
            return self._take(event), None
        except RetryLater as fault:
            log.warning("commitment_refused", reason=str(fault))
            return status.RESOURCE_LIMITATION, None
        except Exception as fault:
            log.exception("commitment_failed", error=type(fault).__name__)
            return status.PROCESSING_FAILURE, None

    def _take(self, event: Any) -> int:
        if event.action_type != 1:
            return status.NO_SUCH_ACTION
        information = event.action_information
        TransactionUID = str(information.get("TransactionUID", ""))
        items = information.get("ReferencedSOPSequence") or ()
        if len(items) > _LARGEST_REQUEST:
            log.warning(
                "commitment_refused", instances=len(items), reason="more references than one request may have"
            )
            return status.RESOURCE_LIMITATION
        references = decode_references(items)
        if not is_uid(TransactionUID) or not references or not all(map(_is_legal, references)):
            log.warning(
                "commitment_refused",
                instances=len(items),
                reason="no Transaction UID, no reference, or one that is no UID",
            )
            return status.INVALID_ARGUMENT
        requestor = event.assoc.requestor
        calling_ae, now = requestor.ae_title.strip(), self._clock()
        self._ledger.ask(
            calling_ae, requestor.address or "", TransactionUID, references, now, now + _PATIENCE_S
        )
        self._asked[event.assoc] = (calling_ae, TransactionUID)
        log.info(
            "commitment_asked", calling_ae=calling_ae, transaction=TransactionUID, instances=len(references)
        )
        return status.SUCCESS

    def _note_sent(self, event: Any) -> None:
        """Report only after the answer to the N-ACTION is out: the two must not overtake each other."""
        if type(event.message).__name__ == "N_ACTION_RSP" and event.assoc in self._asked:
            self._open[self._asked.pop(event.assoc)] = event.assoc
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            try:
                answered = self.answer_due()
            except RetryLater as fault:
                log.warning("commitment_delayed", reason=str(fault))
                answered = 0
            except Exception as fault:
                # The next round tries again: nobody else would start this thread anew.
                log.exception("commitment_round_failed", error=type(fault).__name__)
                answered = 0
            if not answered:
                # Woken by a new request, it still gives the peer the time to hang up.
                woken = self._wake.wait(_IDLE_S)
                self._wake.clear()
                if woken and not self._stopping:
                    threading.Event().wait(_SETTLE_S)

    def answer_due(self) -> int:
        """Answer every request that is due; return how many were tried."""
        now = self._clock()
        requests = {request.id: request for request in self._ledger.due(now)}
        for request in self._ledger.due(now + _PATIENCE_S) if self._open else ():
            if (request.calling_ae, request.TransactionUID) in self._open:
                requests[request.id] = request
        if requests:
            self._settle()
        for request in requests.values():
            stored = self._ledger.stored([reference.SOPInstanceUID for reference in request.references])
            report = examine(request, stored, self._holds)
            outcome = self._tell(request, report)
            self._record(request, report, outcome)
        return len(requests)

    def _tell(self, request: CommitmentRequest, report: CommitmentReport) -> SendOutcome:
        association = self._open.pop((request.calling_ae, request.TransactionUID), None)
        if association is not None and association.is_established:
            outcome = report_on(association, report)
            if outcome.verdict == "ok":
                return outcome
        peer = peer_of(self._config, request.calling_ae, request.peer_host)
        if peer is None or not peer.port:
            return SendOutcome("permanent", _NO_PORT)
        target = peer.as_destination(self._config.tls, request.peer_host)
        timeout_s = self._config.network.dimse_timeout_s
        return send_report(target, report, calling_ae=self._config.network.ae_title, timeout_s=timeout_s)

    def _record(self, request: CommitmentRequest, report: CommitmentReport, outcome: SendOutcome) -> None:
        now = self._clock()
        wait_s = _WAITS_S[min(request.attempts, len(_WAITS_S) - 1)]
        again = outcome.verdict == "transient" and now - request.asked_at < _GIVE_UP_S
        summary = f"{len(report.committed)} safe, {len(report.failed)} not; {outcome.reason}"
        self._ledger.record(request, summary, now + wait_s if again else None)
        (log.info if outcome.verdict == "ok" else log.warning)(
            "commitment_answered" if outcome.verdict == "ok" else "commitment_not_told",
            calling_ae=request.calling_ae,
            transaction=request.TransactionUID,
            safe=len(report.committed),
            failed=len(report.failed),
            reason=outcome.reason,
        )
