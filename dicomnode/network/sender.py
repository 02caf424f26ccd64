"""C-STORE SCU: a batch of files over one association, and what became of each of them.

Rules for this file:
1. Nothing that a peer does raises: every file gets a `SendOutcome`.
2. A file goes out as the bytes that it is; only a native object whose syntax the peer does not take is re-encoded to one that it takes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomnode.config import DestinationSettings
from dicomnode.network.status import SUCCESS, judge
from dicomnode.records import SendOutcome

# PS3.8 9.3.2.2: a context ID is an odd number below 256.
_MAXIMUM_CONTEXTS = 128
# A-ASSOCIATE results, PS3.8 Tables 9-18 and 9-21.
_ACCEPTED = 0
_REJECTED_PERMANENT = 1
# Encodings of one and the same content: pydicom turns each into each. A peer that takes Implicit VR only must still get results.
_CONVERTIBLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True)
class _Parcel:
    """One file and what its file meta says."""

    index: int
    path: Path
    SOPClassUID: UID
    TransferSyntaxUID: UID


class _Answers(DIMSEServiceProvider):
    """The message layer of a peer that nobody asks anything.

    The library's own thread looks for requests. It is meant to pause while an answer is waited for, but two sends that follow each
    other quickly overtake the pause: the thread then takes the answer for a request and drops it, and the sender waits in vain.
    """

    def get_msg(self, block: bool = False) -> Any:
        """Return the next (context ID, message) to who waits for it, nothing to who only looks.

        The time for an answer does not begin while what it answers is still going out: a large object over a slow line takes its time.
        """
        while block:
            unsent = self.dul.to_provider_queue.qsize()
            found = super().get_msg(block=True)
            if found[1] is not None or self.dul.to_provider_queue.qsize() >= unsent:
                return found
        return None, None


def send_files(
    files: Sequence[Path],
    destination: DestinationSettings,
    *,
    calling_ae: str,
    timeout_s: float,
    progress: Callable[[int], None] | None = None,
) -> list[SendOutcome]:
    """Send files and return one outcome per file, in their order.

    Parameters
    ----------
    files
        DICOM files; one that is not gets a permanent outcome.
    destination
        Where to; its `calling_ae_title` wins over `calling_ae`.
    calling_ae
        What we call ourselves.
    timeout_s
        Longest wait for the connection and for each answer.
    progress
        Called after each file with the number of files that are done.
    """
    outcomes: dict[int, SendOutcome] = {}
    parcels = []
    for index, path in enumerate(files):
        parcel = _read_parcel(index, path)
        if isinstance(parcel, SendOutcome):
            outcomes[index] = parcel
        else:
            parcels.append(parcel)
    for batch, contexts in _plan_associations(parcels):
        with _associated(destination, calling_ae, timeout_s, contexts) as association:
            for message_id, parcel in enumerate(batch, start=1):
                outcomes[parcel.index] = _send_parcel(association, parcel, message_id % 65_536)
                if progress is not None:
                    progress(len(outcomes))
    return [outcomes[index] for index in range(len(files))]


def echo(destination: DestinationSettings, calling_ae: str, timeout_s: float) -> SendOutcome:
    """Ask a destination by C-ECHO whether it answers."""
    with _associated(destination, calling_ae, timeout_s, [build_context(Verification)]) as association:
        if isinstance(association, SendOutcome):
            return association
        try:
            answer = association.send_c_echo()
        except (RuntimeError, ValueError) as problem:
            return SendOutcome("transient", f"the association broke off: {problem}")
        code = getattr(answer, "Status", None)
    if code is None:
        return SendOutcome("transient", "no answer to C-ECHO in time")
    return SendOutcome("ok" if code == SUCCESS else "permanent", f"C-ECHO was answered 0x{code:04X}", code)


def _read_parcel(index: int, path: Path) -> _Parcel | SendOutcome:
    try:
        meta = read_file_meta_info(path)
        return _Parcel(index, path, UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID))
    except OSError as problem:
        return _not_read(problem)
    except (InvalidDicomError, AttributeError, ValueError, EOFError):
        return SendOutcome("permanent", "not a DICOM file with File Meta Information")


def _plan_associations(parcels: Sequence[_Parcel]) -> Iterator[tuple[list[_Parcel], list[PresentationContext]]]:
    """Group parcels by SOP class so that each group fits into one association."""
    classes: dict[UID, list[_Parcel]] = {}
    for parcel in parcels:
        classes.setdefault(parcel.SOPClassUID, []).append(parcel)
    batch: list[_Parcel] = []
    contexts: list[PresentationContext] = []
    for members in classes.values():
        wanted = _plan_contexts(members)
        if len(contexts) + len(wanted) > _MAXIMUM_CONTEXTS:
            yield batch, contexts
            batch, contexts = [], []
        batch.extend(members)
        contexts.extend(wanted)
    if batch:
        yield batch, contexts


def _plan_contexts(parcels: Sequence[_Parcel]) -> list[PresentationContext]:
    """Return the contexts for files of one SOP class.

    Each syntax stands in a context of its own: of several in one the acceptor chooses, and would have us convert without need.
    """
    own = list(dict.fromkeys(parcel.TransferSyntaxUID for parcel in parcels))
    native = [syntax for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian) if syntax not in own]
    fallback = native if any(syntax in _CONVERTIBLE for syntax in own) else []
    return [build_context(parcels[0].SOPClassUID, syntax) for syntax in (*own, *fallback)]


@contextmanager
def _associated(
    destination: DestinationSettings, calling_ae: str, timeout_s: float, contexts: list[PresentationContext]
) -> Iterator[Association | SendOutcome]:
    """Give an established association, or why there is none; on leaving it is released."""
    # Its own event log prints what is sent; and a file goes out as its bytes (rule 2), without being decoded.
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=destination.calling_ae_title or calling_ae)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    opened: list[socket.socket] = []
    try:
        association = entity.associate(
            destination.host,
            destination.port,
            contexts=contexts,
            ae_title=destination.ae_title,
            evt_handlers=[(evt.EVT_ACSE_SENT, _note_socket, [opened]), (evt.EVT_CONN_OPEN, _prepare)],
        )
    except OSError as problem:
        yield SendOutcome("transient", f"{destination.host} cannot be found: {problem.strerror}")
        return
    try:
        yield association if association.is_established else _no_association(association)
    finally:
        association.release()
        # The library drops the socket of a connection that fails, or that the peer resets, without closing it.
        for used in opened:
            used.close()


def _note_socket(event: Any, opened: list[socket.socket]) -> None:
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None and wrapped.socket not in opened:
        opened.append(wrapped.socket)


def _prepare(event: Any) -> None:
    # The library gives no other way to choose this class.
    event.assoc.dimse.__class__ = _Answers
    connection: socket.socket = event.assoc.dul.socket.socket
    # Else a small PDU waits for the peer's delayed acknowledgement of the one before it, 40 ms each.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Else a peer that stops reading holds the thread that sends to it for ever, and with it the whole destination.
    timeout_s = event.assoc.network_timeout
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6)))


def _no_association(association: Association) -> SendOutcome:
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        reason = f"the association was rejected: {answer.reason_str}"
        return SendOutcome("permanent" if answer.result == _REJECTED_PERMANENT else "transient", reason)
    if answer is not None and answer.result == _ACCEPTED and not association.accepted_contexts:
        return SendOutcome("permanent", "the peer takes none of the SOP classes and transfer syntaxes of these objects")
    return SendOutcome("transient", "the peer cannot be reached, or broke the association off")


def _not_read(problem: OSError) -> SendOutcome:
    """A file that is gone or forbidden stays so; a disk that stumbles or too many open files pass."""
    lasting = isinstance(problem, FileNotFoundError | IsADirectoryError | PermissionError)
    return SendOutcome("permanent" if lasting else "transient", f"the file cannot be read: {problem.strerror}")


def _send_parcel(association: Association | SendOutcome, parcel: _Parcel, message_id: int) -> SendOutcome:
    if isinstance(association, SendOutcome):
        return association
    if not association.is_established:
        return SendOutcome("transient", "the association broke off")
    accepted = {context.transfer_syntax[0] for context in association.accepted_contexts if context.abstract_syntax == parcel.SOPClassUID}
    try:
        if parcel.TransferSyntaxUID in accepted:
            answer = association.send_c_store(parcel.path, message_id)
        elif parcel.TransferSyntaxUID in _CONVERTIBLE and accepted.intersection(_CONVERTIBLE):
            answer = association.send_c_store(dcmread(parcel.path), message_id)
        else:
            name = f"{parcel.SOPClassUID.name} with {parcel.TransferSyntaxUID.name}"
            return SendOutcome("permanent", f"the peer does not take {name}")
    except (ValueError, AttributeError, TypeError, KeyError, NotImplementedError) as problem:
        # Not its message: pydicom quotes the value that it stumbles over.
        return SendOutcome("permanent", f"the object cannot be encoded as the peer wants it ({type(problem).__name__})")
    except RuntimeError as problem:
        return SendOutcome("transient", f"the association broke off: {problem}")
    except OSError as problem:
        return _not_read(problem)
    code = getattr(answer, "Status", None)
    if code is None:
        return SendOutcome("transient", "no answer in time, or the peer broke the association off")
    judgement = judge(code)
    return SendOutcome(judgement.verdict, f"0x{code:04X}: {judgement.meaning}", code)
