"""What is audited: one table of the node's events with the codes of DICOM audit messages.

It also writes one event as JSON or as XML.

Rules for this file:
1. No patient data: studies are known by their UIDs. A participant is an AE title, an address, or this node.
2. The codes are those of PS3.16 CID 400 and 401; the XML is the schema of PS3.15 A.5.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring  # written, never read


@dataclass(frozen=True)
class AuditKind:
    """The codes of one kind of event: event ID, event type (empty: none) and action (PS3.15 A.5.2)."""

    event_id: tuple[str, str]
    event_type: tuple[str, str]
    action: str
    severity: int = 6


_ACTIVITY, _ALERT = ("110100", "Application Activity"), ("110113", "Security Alert")
_TRANSFERRED = ("110104", "DICOM Instances Transferred")
_ACCESSED, _LOGIN = ("110103", "DICOM Instances Accessed"), ("110114", "User Authentication")

KINDS: Mapping[str, AuditKind] = {
    "started": AuditKind(_ACTIVITY, ("110120", "Application Start"), "E"),
    "stopped": AuditKind(_ACTIVITY, ("110121", "Application Stop"), "E"),
    "configuration-changed": AuditKind(_ALERT, ("110131", "Software Configuration"), "E", 5),
    "association-refused": AuditKind(_ALERT, ("110126", "Node Authentication"), "E", 4),
    "handshake-failed": AuditKind(_ALERT, ("110126", "Node Authentication"), "E", 4),
    "connections-cut": AuditKind(_ALERT, ("110126", "Node Authentication"), "E", 4),
    "hung-up": AuditKind(_ALERT, ("110126", "Node Authentication"), "E", 5),
    "instances-received": AuditKind(_TRANSFERRED, ("", ""), "C"),
    "study-processed": AuditKind(_ACCESSED, ("", ""), "R"),
    "instances-sent": AuditKind(_TRANSFERRED, ("", ""), "R"),
    "study-deleted": AuditKind(("110105", "DICOM Study Deleted"), ("", ""), "D"),
    "study-viewed": AuditKind(_ACCESSED, ("", ""), "R"),
    "study-ordered": AuditKind(_ACCESSED, ("", ""), "U", 5),
    "result-downloaded": AuditKind(("110106", "Export"), ("", ""), "R"),
    "studies-searched": AuditKind(("110112", "Query"), ("", ""), "E"),
    "file-uploaded": AuditKind(("110107", "Import"), ("", ""), "C"),
    "audit-viewed": AuditKind(("110101", "Audit Log Used"), ("", ""), "R"),
    "user-login": AuditKind(_LOGIN, ("110122", "Login"), "E"),
    "user-login-failed": AuditKind(_LOGIN, ("110122", "Login"), "E", 4),
    "user-logout": AuditKind(_LOGIN, ("110123", "Logout"), "E"),
}
"""Every event that the node audits. `severity` is that of RFC 5424: 4 warning, 5 notice, 6 informational."""

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8
"""Event outcome indicators, PS3.15 A.5.1."""


@dataclass(frozen=True)
class AuditEvent:
    """One event that is audited.

    `instances` counts per SOP Class UID. `detail` is a sentence of ours. `user` caused the event on a page.
    """

    kind: str
    outcome: int = SUCCESS
    peer_ae: str = ""
    peer_host: str = ""
    StudyInstanceUID: str = ""
    instances: Mapping[str, int] = field(default_factory=dict)
    detail: str = ""
    user: str = ""


Audit = Callable[[AuditEvent], None]


def silent(_event: AuditEvent) -> None:
    """Audit nothing: for tests and for what runs offline."""


@dataclass(frozen=True)
class Source:
    """Who audits: the node's AE title, its host, and the process."""

    ae_title: str
    host: str
    pid: int


def to_json(event: AuditEvent, source: Source, now: float, repeated: int = 0) -> str:
    """Return one line; `repeated` events like it were left out before it."""
    kind = KINDS[event.kind]
    line: dict[str, Any] = {
        "at": _time(now),
        "event": event.kind,
        "EventID": _code(kind.event_id),
        "EventActionCode": kind.action,
        "EventOutcomeIndicator": event.outcome,
        "source": {"ae_title": source.ae_title, "host": source.host, "pid": source.pid},
    }
    if kind.event_type[0]:
        line["EventTypeCode"] = _code(kind.event_type)
    if event.peer_ae or event.peer_host:
        line["peer"] = {"ae_title": event.peer_ae, "host": event.peer_host}
    optional = {
        "user": event.user,
        "StudyInstanceUID": event.StudyInstanceUID,
        "instances": dict(event.instances),
        "detail": event.detail,
        "repeated": repeated,
    }
    return json.dumps({**line, **{key: value for key, value in optional.items() if value}}, ensure_ascii=True)


def to_xml(event: AuditEvent, source: Source, now: float, repeated: int = 0) -> bytes:
    """Return the audit message of PS3.15 A.5.1 in UTF-8, without an XML declaration."""
    kind = KINDS[event.kind]
    message = Element("AuditMessage")
    outcome = {
        "EventActionCode": kind.action,
        "EventDateTime": _time(now),
        "EventOutcomeIndicator": str(event.outcome),
    }
    identification = SubElement(message, "EventIdentification", outcome)
    SubElement(identification, "EventID", _csd(kind.event_id))
    if kind.event_type[0]:
        SubElement(identification, "EventTypeCode", _csd(kind.event_type))
    if event.detail or repeated:
        repetition = f" ({repeated} more like it)" if repeated else ""
        SubElement(identification, "EventOutcomeDescription").text = event.detail + repetition
    arrives = event.kind == "instances-received"
    _participant(
        message,
        source.ae_title,
        str(source.pid),
        source.host,
        requestor=not arrives and not event.user,
        role=_DESTINATION if arrives else _SOURCE,
    )
    if event.user:
        _participant(message, event.user, "", event.peer_host, requestor=True, role=_DESTINATION)
    elif event.peer_ae or event.peer_host:
        role = _SOURCE if arrives else _DESTINATION
        _participant(
            message, event.peer_ae or event.peer_host, "", event.peer_host, requestor=arrives, role=role
        )
    SubElement(message, "AuditSourceIdentification", {"AuditSourceID": source.ae_title})
    if event.StudyInstanceUID:
        _study(message, event)
    encoded: bytes = tostring(message, encoding="utf-8", xml_declaration=False)
    return encoded


_SOURCE, _DESTINATION = ("110153", "Source Role ID"), ("110152", "Destination Role ID")


def _participant(
    message: Element, user: str, alternative: str, host: str, *, requestor: bool, role: tuple[str, str]
) -> None:
    values = {"UserID": user, "UserIsRequestor": str(requestor).lower()}
    if alternative:
        values["AlternativeUserID"] = alternative
    if host:
        values |= {"NetworkAccessPointID": host, "NetworkAccessPointTypeCode": "2"}
    SubElement(SubElement(message, "ActiveParticipant", values), "RoleIDCode", _csd(role))


def _study(message: Element, event: AuditEvent) -> None:
    # Object type 2 is a system object, role 3 a report or study; the ID type is that of PS3.16 CID 404.
    values = {
        "ParticipantObjectID": event.StudyInstanceUID,
        "ParticipantObjectTypeCode": "2",
        "ParticipantObjectTypeCodeRole": "3",
    }
    study = SubElement(message, "ParticipantObjectIdentification", values)
    SubElement(study, "ParticipantObjectIDTypeCode", _csd(("110180", "Study Instance UID")))
    description = SubElement(study, "ParticipantObjectDescription") if event.instances else None
    for uid, count in sorted(event.instances.items()):
        counts = {"UID": uid, "NumberOfInstances": str(count)}
        SubElement(description, "SOPClass", counts)  # type: ignore[arg-type]


def _time(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")


def _code(code: tuple[str, str]) -> dict[str, str]:
    return {"code": code[0], "system": "DCM", "meaning": code[1]}


def _csd(code: tuple[str, str]) -> dict[str, str]:
    return {"csd-code": code[0], "codeSystemName": "DCM", "originalText": code[1]}
