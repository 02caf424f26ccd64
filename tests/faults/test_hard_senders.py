"""Senders: the same study over several associations at once, one that breaks off inside an object, one that crawls beside a hundred others."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from dicomnode.simulator.archive import Archive
from dicomnode.simulator.node import AE_TITLE
from tests.factories.calling import associate, sockets_closed
from tests.factories.hospital import LIGHT, QUICK, Hospital, Settle

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

AT_ONCE = 4
CROWD = 100
SUCCESS = 0x0000


def test_the_same_study_over_several_associations_at_once_is_one_study(
    tmp_path: Path, settle: Settle
) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        files = hospital.write("at once")
        senders = [threading.Thread(target=hospital.push, args=(files,)) for _ in range(AT_ONCE)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        hospital.wait_answered()
        counts = hospital.count()
        stored = list((hospital.node.root / "spool").glob("incoming/*/*.dcm"))
        hospital.node.check()

    settle("the same study over 4 associations at once", AT_ONCE, counts)
    assert len(stored) == len(files) == counts.acknowledged


def test_one_that_breaks_off_inside_an_object_leaves_nothing_half(tmp_path: Path, settle: Settle) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital, sockets_closed():
        port = hospital.node.port()
        files = hospital.write("broken off")
        broken = 0
        for file in files[:3]:
            association = associate(port, calling="BREAKER", called=AE_TITLE)
            assert association.is_established
            line = association.dul.socket
            assert line is not None
            pieces: list[int] = []

            def send(data: bytes, pieces: list[int] = pieces, line: AssociationSocket = line) -> None:
                # The command goes out; in the middle of the first PDU of the dataset the cable is pulled.
                pieces.append(len(data))
                assert line.socket is not None
                if len(pieces) == 1:
                    line.socket.sendall(data)
                elif len(pieces) == 2:
                    line.socket.sendall(data[: len(data) // 2])
                    line.socket.shutdown(socket.SHUT_RDWR)

            line.send = send  # type: ignore[method-assign]
            dataset = dcmread(file)
            association.send_c_store(dataset)
            association.abort()
            broken += len(pieces) >= 2
        hospital.push(files)
        hospital.wait_answered()
        counts = hospital.count()
        parts = list((hospital.node.root / "spool").rglob("*.part"))
        hospital.node.check()

    settle("sender that breaks off inside an object", broken, counts)
    assert broken == 3
    assert parts == []


def test_one_that_crawls_gets_through_beside_a_hundred_others(tmp_path: Path, settle: Settle) -> None:
    settings = QUICK.replace("quiet_s = 3", "quiet_s = 15") + LIGHT
    with (
        Archive(tmp_path / "pacs") as archive,
        Hospital(tmp_path, archive, settings) as hospital,
        sockets_closed(),
    ):
        port = hospital.node.port()
        files = hospital.write("crawls")
        slow = associate(port, calling="CRAWLER", called=AE_TITLE)
        assert slow.is_established
        crowd: list[Association] = []
        got_in: list[bool] = []
        lock = threading.Lock()

        def come_and_stay() -> None:
            association = associate(port, calling="CROWD", called=AE_TITLE)
            with lock:
                crowd.append(association)
                # Now: one that says nothing for 10 s hangs up by itself.
                got_in.append(association.is_established)

        callers = [threading.Thread(target=come_and_stay) for _ in range(CROWD)]
        for caller in callers:
            caller.start()
        statuses = []
        for file in files:
            instance = dcmread(file)
            statuses.append(slow.send_c_store(instance).Status)
            if statuses[-1] == SUCCESS:
                hospital.acknowledged.add(str(instance.SOPInstanceUID))
            time.sleep(0.2)
        for caller in callers:
            caller.join()
        for association in crowd:
            if association.is_established:
                association.release()
        slow.release()
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()

    settle("100 associations of one peer beside a slow sender", CROWD, counts)
    assert set(statuses) == {SUCCESS}
    # network.maximum_associations_per_peer: the rest is refused for the moment, and nobody hangs.
    assert 1 <= sum(got_in) <= 8
    assert len(crowd) == CROWD
    assert sum(association.is_rejected for association in crowd) > CROWD / 2
