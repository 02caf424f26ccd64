from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
from pydicom.sr.codedict import codes

from dicomnode.audit.events import KINDS, AuditEvent, Source, to_json, to_xml
from dicomnode.audit.syslog import SyslogSender, connector, frame
from dicomnode.audit.trail import AuditTrail

SOURCE = Source("NODE", "host.example", 4711)
RECEIVED = AuditEvent("instances-received", 0, "MR1", "10.0.0.5", "1.2.3", {"1.2.840.10008.5.1.4.1.1.4": 192})


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def test_every_code_is_the_standards() -> None:
    known = {
        (code.value, code.meaning)
        for name in codes.DCM.dir()
        if (code := getattr(codes.DCM, name)).value.startswith("110")
    }
    used = {code for kind in KINDS.values() for code in (kind.event_id, kind.event_type) if code[0]}

    assert used - known == set()
    assert {kind.action for kind in KINDS.values()} <= set("CRUDE")


def test_a_line_says_who_what_and_how_it_ended() -> None:
    line = json.loads(to_json(RECEIVED, SOURCE, 1_700_000_000.25))

    assert line == {
        "at": "2023-11-14T22:13:20.250+00:00",
        "event": "instances-received",
        "EventID": {"code": "110104", "system": "DCM", "meaning": "DICOM Instances Transferred"},
        "EventActionCode": "C",
        "EventOutcomeIndicator": 0,
        "source": {"ae_title": "NODE", "host": "host.example", "pid": 4711},
        "peer": {"ae_title": "MR1", "host": "10.0.0.5"},
        "StudyInstanceUID": "1.2.3",
        "instances": {"1.2.840.10008.5.1.4.1.1.4": 192},
    }


def test_the_message_has_the_parts_of_the_schema_in_its_order() -> None:
    message = fromstring(to_xml(RECEIVED, SOURCE, 1_700_000_000.0))
    nasty = fromstring(
        to_xml(
            AuditEvent("association-refused", 4, 'A<&"', "::1", detail="<b>\u00e9"), SOURCE, 0.0, repeated=7
        )
    )

    assert [part.tag for part in message] == [
        *(
            "EventIdentification",
            "ActiveParticipant",
            "ActiveParticipant",
            "AuditSourceIdentification",
            "ParticipantObjectIdentification",
        )
    ]
    assert [
        (part.get("UserID"), part.get("UserIsRequestor")) for part in message.iter("ActiveParticipant")
    ] == [
        ("NODE", "false"),
        ("MR1", "true"),
    ]
    assert message.find(".//SOPClass").attrib == {
        "UID": "1.2.840.10008.5.1.4.1.1.4",
        "NumberOfInstances": "192",
    }  # type: ignore[union-attr]
    assert nasty.findtext(".//EventOutcomeDescription") == "<b>\u00e9 (7 more like it)"


def test_lines_of_several_threads_and_after_a_rotation_are_whole(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "audit", SOURCE)
    threads = [threading.Thread(target=lambda: [trail(RECEIVED) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.01)
    (tmp_path / "audit").mkdir(exist_ok=True)
    if (tmp_path / "audit" / "audit.jsonl").exists():
        (tmp_path / "audit" / "audit.jsonl").rename(tmp_path / "audit" / "audit.jsonl.1")
    for thread in threads:
        thread.join()
    trail(RECEIVED)

    files = list((tmp_path / "audit").glob("audit.jsonl*"))
    assert sum(len([json.loads(line) for line in file.read_text().splitlines()]) for file in files) == 201
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}


def test_a_flood_from_one_host_is_counted(tmp_path: Path) -> None:
    clock = Clock()
    trail = AuditTrail(tmp_path, SOURCE, clock=clock)
    for host in ("10.0.0.9", "10.0.0.8"):
        for _ in range(500):
            trail(AuditEvent("association-refused", 4, "X", host))
    clock.now += 61
    trail(AuditEvent("association-refused", 4, "X", "10.0.0.9"))

    assert [(line["peer"]["host"], line.get("repeated")) for line in lines(tmp_path)] == [  # type: ignore[index]
        ("10.0.0.9", None),
        ("10.0.0.8", None),
        ("10.0.0.9", 499),
    ]


def test_a_changed_configuration_is_noted_once(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path, SOURCE)
    for text in ("a = 1", "a = 1", "a = 2 # secret"):
        trail.note_configuration(text)

    assert [line["event"] for line in lines(tmp_path)] == ["configuration-changed"] * 2
    assert "secret" not in (tmp_path / "audit.jsonl").read_text()


def test_a_trail_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")

    AuditTrail(tmp_path / "audit", SOURCE)(RECEIVED)

    assert (tmp_path / "audit").read_text() == "a file where the folder should be"


def test_the_syslog_message_is_framed_as_rfc_5425_says() -> None:
    framed = frame("association-refused", b"<x/>", 1_700_000_000.0, "host.example")
    length, _, message = framed.partition(b" ")

    assert int(length) == len(message)
    expected = (
        f"<84>1 2023-11-14T22:13:20.000Z host.example dicomnode {os.getpid()} DICOM+RFC3881 - \ufeff<x/>"
    )
    assert message.decode() == expected


def test_messages_wait_for_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.audit.syslog._PAUSES_S", (0.05,))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    sender = SyslogSender(connector("127.0.0.1", port, None), "here")
    for number in range(3):
        sender.put("started", f"<m{number}/>".encode(), 0.0)
    time.sleep(0.2)
    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            received = b""
            while received.count(b"/>") < 3:
                received += connection.recv(4096)
            sender.close()
    assert [received.index(f"<m{number}/>".encode()) for number in range(3)] == sorted(
        received.index(f"<m{number}/>".encode()) for number in range(3)
    )
