"""Delivery by DICOMweb (PS3.18): STOW-RS in place of C-STORE, QIDO-RS in place of C-FIND.

Same outcomes, same retry rules.

Rules for this file:
1. Nothing that a server does raises: every file gets a `SendOutcome`.
2. An object counts as stored when the response names it in its Referenced SOP Sequence (PS3.18 10.5.3), or
   when a query lists it. A success that names nothing is asked after by query and never sent again before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicomnode.network.query import InstanceKey
from dicomnode.network.status import PROCESSING_FAILURE, judge
from dicomnode.network.web import Reply, WebService, open_service, refused, web_page
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings

NOT_OFFERED = "the server does not offer QIDO-RS"

# Tags of PS3.18 Table 10.5.3-2 and of the instance, as DICOM JSON writes them.
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_WARNING_REASON = "00081196"
_FAILURE_REASON = "00081197"
_SOP_INSTANCE_UID = "00080018"

# Duplicate SOP Instance (PS3.7 C.5.4), and the reason code that the Azure and Google services give instead.
_THERE_ALREADY = frozenset({0x0111, 45070})
# The same services: another request is storing this very object.
_BEING_STORED = 45071
_NO_SUCH_SERVICE = frozenset({400, 405, 501})


def stow_files(
    files: Sequence[Path], destination: DestinationSettings, *, timeout_s: float
) -> list[SendOutcome]:
    """Store files and return one outcome per file, in their order.

    Each file is a request of its own, so that one cannot fail another.
    """
    with open_service(destination, timeout_s) as service:
        if isinstance(service, SendOutcome):
            return [service] * len(files)
        return [_store(service, path, can_ask_later=destination.confirm != "none") for path in files]


def find_by_qido(
    destination: DestinationSettings, instances: Sequence[InstanceKey], *, timeout_s: float
) -> frozenset[str] | SendOutcome:
    """Return which of the wanted SOP Instance UIDs a server lists.

    They may stand in their study or in another one that the server filed them under.
    """
    listed: set[str] = set()
    with open_service(destination, timeout_s) as service:
        if isinstance(service, SendOutcome):
            return service
        for key in instances:
            answer = _is_listed(service, key)
            if isinstance(answer, SendOutcome):
                return answer
            if answer:
                listed.add(key.SOPInstanceUID)
    return frozenset(listed)


def probe_web(destination: DestinationSettings, timeout_s: float) -> SendOutcome:
    """Ask whether the service is there and lets us in, without storing anything: a search for one study."""
    with open_service(destination, timeout_s) as service:
        if isinstance(service, SendOutcome):
            return service
        reply = service.request("GET", "/studies", query={"limit": "1"})
    if isinstance(reply, SendOutcome):
        return reply
    if not reply.is_success:
        return refused("QIDO-RS", reply.status)
    return (
        web_page("QIDO-RS", reply.status)
        if reply.is_web_page
        else SendOutcome("ok", "the DICOMweb service answers and lets us in")
    )


def _store(service: WebService, path: Path, *, can_ask_later: bool) -> SendOutcome:
    try:
        header = dcmread(
            path,
            stop_before_pixels=True,
            specific_tags=["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"],
        )
        key = InstanceKey(
            *(
                str(header.get(keyword, ""))
                for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
            )
        )
        content = path.read_bytes()
    except OSError as problem:
        lasting = isinstance(problem, FileNotFoundError | IsADirectoryError | PermissionError)
        return SendOutcome(
            "permanent" if lasting else "transient", f"the file cannot be read: {problem.strerror}"
        )
    except InvalidDicomError:
        return SendOutcome("permanent", "not a DICOM file with File Meta Information")
    boundary = token_hex(16)
    reply = service.request(
        "POST", "/studies", body=_multipart(content, boundary), content_type=_MULTIPART.format(boundary)
    )
    if isinstance(reply, SendOutcome):
        return reply
    outcome = _judge_store(reply, key.SOPInstanceUID)
    return (
        outcome
        if outcome is not None
        else _ask_after(service, reply.status, key, can_ask_later=can_ask_later)
    )


_MULTIPART = 'multipart/related; type="application/dicom"; boundary={}'


def _multipart(content: bytes, boundary: str) -> bytes:
    """Return the one part that a file is (PS3.18 10.5.1, RFC 2387)."""
    return b"".join(
        (
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(),
            content,
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )


def _judge_store(reply: Reply, SOPInstanceUID: str) -> SendOutcome | None:
    """Return what a response says of the object; None when it neither names it nor is a refusal."""
    datasets = reply.datasets()
    for item in _items(datasets, _OTHER_FAILURES_SEQUENCE):
        return _failed(_number(item, _FAILURE_REASON) or PROCESSING_FAILURE)
    for item in _items(datasets, _FAILED_SOP_SEQUENCE):
        if _uid(item, _REFERENCED_SOP_INSTANCE_UID) in ("", SOPInstanceUID):
            return _failed(_number(item, _FAILURE_REASON) or PROCESSING_FAILURE)
    for item in _items(datasets, _REFERENCED_SOP_SEQUENCE):
        if reply.status < 500 and _uid(item, _REFERENCED_SOP_INSTANCE_UID) == SOPInstanceUID:
            warning = _number(item, _WARNING_REASON)
            return _stored(warning or 0x0000)
    if reply.is_success:
        return web_page("STOW-RS", reply.status) if reply.is_web_page else None
    return None if reply.status == 409 else refused("STOW-RS", reply.status)


def _ask_after(service: WebService, status: int, key: InstanceKey, *, can_ask_later: bool) -> SendOutcome:
    """Find out by query what became of an object that a success, or a conflict, does not name."""
    listed = _is_listed(service, key)
    if listed is True:
        return SendOutcome(
            "ok", f"STOW-RS: HTTP {status} names no object; a query lists it: it is there", 0x0000
        )
    if status == 409:
        return refused("STOW-RS", status)
    if isinstance(listed, SendOutcome) and listed.reason == NOT_OFFERED:
        return SendOutcome(
            "ok", f"STOW-RS: HTTP {status} names no object, and {NOT_OFFERED}: believed", 0x0000
        )
    if can_ask_later:
        return SendOutcome(
            "ok", f"STOW-RS: HTTP {status} names no object; it is asked after by query", 0x0000
        )
    return SendOutcome(
        "transient", f"STOW-RS: HTTP {status} names no object, and a query does not list it", status
    )


def _is_listed(service: WebService, key: InstanceKey) -> bool | SendOutcome:
    """Return whether a server lists an instance: where it belongs, or, filed elsewhere, among all."""
    for path in (f"/studies/{key.StudyInstanceUID}/series/{key.SeriesInstanceUID}/instances", "/instances"):
        reply = service.request("GET", path, query={"SOPInstanceUID": key.SOPInstanceUID})
        if isinstance(reply, SendOutcome):
            return reply
        if path == "/instances" and not reply.is_success:
            # Not every server searches all studies; the answer for the study stands.
            break
        # Some answer "not found" for a study that is not there yet.
        if not reply.is_success and reply.status != 404:
            return (
                SendOutcome("permanent", NOT_OFFERED)
                if reply.status in _NO_SUCH_SERVICE
                else refused("QIDO-RS", reply.status)
            )
        if reply.is_success and reply.is_web_page:
            return web_page("QIDO-RS", reply.status)
        # Some ignore the key and list whatever they have.
        if key.SOPInstanceUID in {_uid(entry, _SOP_INSTANCE_UID) for entry in reply.datasets()}:
            return True
    return False


def _items(datasets: Sequence[Mapping[str, Any]], tag: str) -> Iterator[Mapping[str, Any]]:
    """Yield the items of a sequence of DICOM JSON, as far as they are any."""
    for dataset in datasets:
        yield from (item for item in _values(dataset, tag) if isinstance(item, dict))


def _values(dataset: Mapping[str, Any], tag: str) -> list[Any]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _uid(dataset: Mapping[str, Any], tag: str) -> str:
    values = _values(dataset, tag)
    return str(values[0]).strip(" \0") if values else ""


def _number(dataset: Mapping[str, Any], tag: str) -> int | None:
    """Return a number, which some servers write as a text, decimal or 0x...."""
    values = _values(dataset, tag)
    try:
        return int(str(values[0]), 0) if values else None
    except ValueError:
        return None


def _stored(warning: int) -> SendOutcome:
    meaning = f": {judge(warning).meaning}" if warning else ""
    return SendOutcome("ok", f"STOW-RS: stored{meaning}", warning)


def _failed(reason: int) -> SendOutcome:
    if reason in _THERE_ALREADY:
        return SendOutcome(
            "ok", f"STOW-RS: the server has this SOP Instance UID already (reason {reason})", 0x0000
        )
    judgement = judge(reason)
    verdict = "transient" if judgement.verdict == "ok" or reason == _BEING_STORED else judgement.verdict
    return SendOutcome(verdict, f"STOW-RS: failed with 0x{reason:04X}: {judgement.meaning}", reason)
