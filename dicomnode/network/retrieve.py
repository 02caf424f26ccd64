"""C-GET and C-MOVE SCU (PS3.4 Annex C, Study Root).

Series of a study from a peer into our spool, as safely as if they were sent.

Rules for this file:
1. Nothing that a peer does raises.
2. What comes by C-GET goes through the same handler as what is sent to us; what comes by C-MOVE is sent to
   `receive`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicomnode.network.contexts import MR_STORAGE, TRANSFER_SYNTAXES
from dicomnode.network.dial import TAKES_NONE, associated
from dicomnode.network.handlers import AnswerStore, StoreRequest
from dicomnode.network.store_check import check_store
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings
from pipeline.counts import counted

log = structlog.get_logger()

GET = UID(StudyRootQueryRetrieveInformationModelGet)
MOVE = UID(StudyRootQueryRetrieveInformationModelMove)
NOT_OFFERED = "the peer offers neither C-GET nor C-MOVE"
NO_ROLE = (
    "the peer takes C-GET but answers no role selection (PS3.7 D.3.3.4), so it cannot send us images that "
    "way, and it offers no C-MOVE: have it send the study itself"
)

_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_PENDING = (0xFF00, 0xFF01)
# PS3.4 Table C.4-3: unable to perform sub-operations; SOP class not supported.
_CANNOT_SEND = (0xA702, 0x0122)
# PS3.4 Table C.4-2: the peer does not know where we are.
_MOVE_DESTINATION_UNKNOWN = 0xA801


@dataclass(frozen=True)
class Retrieved:
    """What became of a retrieval.

    The last word, how many sub-operations succeeded and failed, and by which service.
    """

    outcome: SendOutcome
    completed: int = 0
    failed: int = 0
    service: str = ""


def retrieve(
    peer: DestinationSettings,
    StudyInstanceUID: str,
    SeriesInstanceUIDs: Sequence[str],
    *,
    calling_ae: str,
    timeout_s: float,
    store: AnswerStore,
) -> Retrieved:
    """Have a peer send MR series of a study: by C-GET into `store`, or by C-MOVE to our own listener.

    C-MOVE is the way where there is no C-GET, where a peer takes C-GET without the role that it needs for
    sending (PS3.7 D.3.3.4), and where not one image came by C-GET because the peer could not send.
    """
    keys = _keys(StudyInstanceUID, SeriesInstanceUIDs)
    by_get = _by_get(peer, keys, calling_ae, timeout_s, store)
    if not _is_hopeless(by_get):
        return by_get
    by_move = _by_move(peer, keys, calling_ae, timeout_s)
    return (
        by_get if by_move.outcome.reason == NOT_OFFERED and by_get.outcome.reason != TAKES_NONE else by_move
    )


def _is_hopeless(by_get: Retrieved) -> bool:
    """Return whether C-GET brought nothing and never will.

    It is not offered, or its sub-operations cannot be performed.
    """
    outcome = by_get.outcome
    if outcome.reason in (TAKES_NONE, NOT_OFFERED, NO_ROLE):
        return True
    return by_get.completed == 0 and outcome.status in _CANNOT_SEND


def _by_get(
    peer: DestinationSettings, keys: list[Dataset], calling_ae: str, timeout_s: float, store: AnswerStore
) -> Retrieved:
    roles = [build_role(uid, scp_role=True) for uid in MR_STORAGE]
    serves = [(evt.EVT_C_STORE, _storing(store, peer))]
    with associated(peer, calling_ae, timeout_s, _get_contexts(), roles=roles, serves=serves) as association:
        if isinstance(association, SendOutcome):
            return Retrieved(association)
        if not any(context.abstract_syntax == GET for context in association.accepted_contexts):
            return Retrieved(SendOutcome("permanent", NOT_OFFERED))
        # Without the role of a provider on one context at least, every C-STORE of the peer would be refused.
        if not any(
            context.as_scp for context in association.accepted_contexts if context.abstract_syntax != GET
        ):
            return Retrieved(SendOutcome("permanent", NO_ROLE))
        return _series_by_series(keys, "C-GET", lambda identifier: association.send_c_get(identifier, GET))


def _by_move(peer: DestinationSettings, keys: list[Dataset], calling_ae: str, timeout_s: float) -> Retrieved:
    own_ae = peer.calling_ae_title or calling_ae
    with associated(peer, calling_ae, timeout_s, [build_context(MOVE, list(_NATIVE))]) as association:
        if isinstance(association, SendOutcome):
            return Retrieved(
                SendOutcome("permanent", NOT_OFFERED) if association.reason == TAKES_NONE else association
            )
        return _series_by_series(
            keys, "C-MOVE", lambda identifier: association.send_c_move(identifier, own_ae, MOVE)
        )


def _series_by_series(keys: list[Dataset], service: str, ask: Callable[[Dataset], Any]) -> Retrieved:
    """Ask series by series: a peer that stumbles over one has given the others."""
    total = Retrieved(SendOutcome("ok", "every series was sent"), service=service)
    for identifier in keys:
        retrieved = _follow(service, ask(identifier))
        outcome = retrieved.outcome if total.outcome.verdict == "ok" else total.outcome
        total = Retrieved(
            outcome, total.completed + retrieved.completed, total.failed + retrieved.failed, service
        )
        if retrieved.outcome.status is None and retrieved.outcome.verdict != "ok":
            break
    return total


def _follow(service: str, answers: Iterator[Any]) -> Retrieved:
    completed = failed = 0
    try:
        for answer, _identifier in answers:
            code = getattr(answer, "Status", None)
            if code is None:
                return Retrieved(
                    SendOutcome(
                        "transient", f"no answer to {service} in time, or the peer broke the association off"
                    ),
                    completed,
                    failed,
                )
            completed = answer.get("NumberOfCompletedSuboperations", completed) or 0
            failed = answer.get("NumberOfFailedSuboperations", failed) or 0
            if code not in _PENDING:
                return Retrieved(_judge(service, code, failed), completed, failed)
    except (RuntimeError, ValueError, AttributeError) as problem:
        return Retrieved(
            SendOutcome(
                "transient", f"the association broke off during {service} ({type(problem).__name__})"
            ),
            completed,
            failed,
        )
    return Retrieved(SendOutcome("transient", f"{service} ended without a last word"), completed, failed)


def _judge(service: str, code: int, failed: int) -> SendOutcome:
    if code == 0 and not failed:
        return SendOutcome("ok", f"{service} succeeded", code)
    if code == _MOVE_DESTINATION_UNKNOWN:
        return SendOutcome(
            "permanent",
            "the peer does not know our AE title, host and port: register them there for C-MOVE",
            code,
        )
    # Out of resources (A7xx), and sub-operations that failed (B000), may go well another time.
    passing = 0xA700 <= code <= 0xA7FF or 0xB000 <= code <= 0xBFFF or code == 0
    return SendOutcome(
        "transient" if passing else "permanent",
        f"{service} was answered 0x{code:04X}, {counted(failed, 'instance')} failed",
        code,
    )


def _storing(store: AnswerStore, peer: DestinationSettings) -> Callable[[Any], int]:
    def answer_event(event: Any) -> int:
        request = StoreRequest(
            SOPClassUID=str(event.request.AffectedSOPClassUID),
            SOPInstanceUID=str(event.request.AffectedSOPInstanceUID),
            TransferSyntaxUID=str(event.context.transfer_syntax),
            encoded_dataset=event.encoded_dataset(include_meta=False),
            calling_ae=peer.ae_title,
            peer_host=_address(event.assoc) or peer.host,
        )
        fault = check_store(request, str(event.context.abstract_syntax))
        if fault is None:
            return store(request)
        log.warning("instance_refused", host=request.peer_host, peer=peer.name, reason=fault.reason)
        return fault.status

    return answer_event


def _address(association: Association) -> str:
    return association.acceptor.address or ""


def _get_contexts() -> list[PresentationContext]:
    """One context per class for what needs no conversion at either side, and one for each compressed syntax.

    No instance is converted.
    """
    compressed = [uid for uid in TRANSFER_SYNTAXES if uid.is_compressed]
    contexts = [build_context(GET, list(_NATIVE))]
    contexts += [build_context(uid, list(_NATIVE)) for uid in MR_STORAGE]
    # A context ID is an odd number below 256, so there are 128: the classes that scanners use come first.
    for uid in MR_STORAGE:
        contexts += [build_context(uid, syntax) for syntax in compressed]
    return contexts[:128]


def _keys(StudyInstanceUID: str, SeriesInstanceUIDs: Sequence[str]) -> list[Dataset]:
    keys = []
    for SeriesInstanceUID in SeriesInstanceUIDs:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "SERIES"
        identifier.StudyInstanceUID = StudyInstanceUID
        identifier.SeriesInstanceUID = SeriesInstanceUID
        keys.append(identifier)
    return keys
