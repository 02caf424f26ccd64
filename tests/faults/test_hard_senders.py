"""Senders: the same study over several associations at once, one that breaks off inside an object."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from dicomnode.simulator.archive import Archive
from dicomnode.simulator.node import AE_TITLE
from tests.factories.hospital import Hospital, Settle

# pynetdicom's calling side leaves its socket to the garbage collector when it was refused or cut off; that is the sender here, not the node.
_OPEN_SOCKETS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600), _OPEN_SOCKETS]

AT_ONCE = 4


def test_the_same_study_over_several_associations_at_once_is_one_study(tmp_path: Path, settle: Settle) -> None:
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


def call(port: int, title: str) -> Association:
    entity = AE(ae_title=title)
    entity.add_requested_context(MRImageStorage)
    entity.acse_timeout = 30
    return entity.associate("127.0.0.1", port, ae_title=AE_TITLE)


def test_one_that_breaks_off_inside_an_object_leaves_nothing_half(tmp_path: Path, settle: Settle) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital:
        port = hospital.node.port()
        files = hospital.write("broken off")
        broken = 0
        for file in files[:3]:
            association = call(port, "BREAKER")
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
    assert broken >= 1
    assert parts == []
