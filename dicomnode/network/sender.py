"""C-STORE SCU: a batch of files over one association, and what became of each of them.

Rules for this file:
1. Nothing that a peer does raises: every file gets a `SendOutcome`.
2. A file goes out as the bytes that it is; only a native object whose syntax the peer does not take is
   re-encoded to one that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomnode.network.dial import associated, unanswered
from dicomnode.network.status import SUCCESS, judge
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings

# PS3.8 9.3.2.2: a context ID is an odd number below 256.
_MAXIMUM_CONTEXTS = 128
# Encodings of one and the same content: pydicom turns each into each. A peer that takes Implicit VR only must
# still get results.
_CONVERTIBLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True)
class _Parcel:
    """One file and what its file meta says."""

    index: int
    path: Path
    SOPClassUID: UID
    TransferSyntaxUID: UID


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
        with associated(destination, calling_ae, timeout_s, contexts) as association:
            for message_id, parcel in enumerate(batch, start=1):
                outcomes[parcel.index] = _send_parcel(association, parcel, message_id % 65_536)
                if progress is not None:
                    progress(len(outcomes))
    return [outcomes[index] for index in range(len(files))]


def echo(destination: DestinationSettings, calling_ae: str, timeout_s: float) -> SendOutcome:
    """Ask a destination by C-ECHO whether it answers."""
    with associated(destination, calling_ae, timeout_s, [build_context(Verification)]) as association:
        if isinstance(association, SendOutcome):
            return association
        try:
            answer = association.send_c_echo()
        except (RuntimeError, ValueError) as problem:
            return SendOutcome("transient", f"the association broke off: {problem}")
        code = getattr(answer, "Status", None)
        if code is None:
            return unanswered(association)
    return SendOutcome("ok" if code == SUCCESS else "permanent", f"C-ECHO was answered 0x{code:04X}", code)


def _read_parcel(index: int, path: Path) -> _Parcel | SendOutcome:
    try:
        meta = read_file_meta_info(path)
        return _Parcel(index, path, UID(meta.MediaStorageSOPClassUID), UID(meta.TransferSyntaxUID))
    except OSError as problem:
        return _not_read(problem)
    except (InvalidDicomError, AttributeError, ValueError, EOFError):
        return SendOutcome("permanent", "not a DICOM file with File Meta Information")


def _plan_associations(
    parcels: Sequence[_Parcel],
) -> Iterator[tuple[list[_Parcel], list[PresentationContext]]]:
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

    Each syntax stands in a context of its own: of several in one the acceptor chooses, and would have us
    convert without need.
    """
    own_syntaxes = list(dict.fromkeys(parcel.TransferSyntaxUID for parcel in parcels))
    native = [
        syntax for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian) if syntax not in own_syntaxes
    ]
    fallback = native if any(syntax in _CONVERTIBLE for syntax in own_syntaxes) else []
    return [build_context(parcels[0].SOPClassUID, syntax) for syntax in (*own_syntaxes, *fallback)]


def _not_read(problem: OSError) -> SendOutcome:
    """A file that is gone or forbidden stays so; a disk that stumbles or too many open files pass."""
    lasting = isinstance(problem, FileNotFoundError | IsADirectoryError | PermissionError)
    return SendOutcome(
        "permanent" if lasting else "transient", f"the file cannot be read: {problem.strerror}"
    )


def _send_parcel(association: Association | SendOutcome, parcel: _Parcel, message_id: int) -> SendOutcome:
    if isinstance(association, SendOutcome):
        return association
    if not association.is_established:
        return SendOutcome("transient", "the association broke off")
    accepted = {
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == parcel.SOPClassUID
    }
    try:
        if parcel.TransferSyntaxUID in accepted:
            answer = association.send_c_store(parcel.path, message_id)
        elif parcel.TransferSyntaxUID in _CONVERTIBLE and accepted.intersection(_CONVERTIBLE):
            answer = association.send_c_store(dcmread(parcel.path), message_id)
        else:
            name = f"{parcel.SOPClassUID.name} with {parcel.TransferSyntaxUID.name}"
            return SendOutcome("permanent", f"the peer does not take {name}", not_accepted=True)
    except (ValueError, AttributeError, TypeError, KeyError, NotImplementedError) as problem:
        # Not its message: pydicom quotes the value that it stumbles over.
        return SendOutcome(
            "permanent", f"the object cannot be encoded as the peer wants it ({type(problem).__name__})"
        )
    except RuntimeError as problem:
        return SendOutcome("transient", f"the association broke off: {problem}")
    except OSError as problem:
        return _not_read(problem)
    code = getattr(answer, "Status", None)
    if code is None:
        return unanswered(association)
    judgement = judge(code)
    return SendOutcome(judgement.verdict, f"0x{code:04X}: {judgement.meaning}", code)
