"""Storage commitment asked of us by scanners that stay, hang up, or ask before a restart; a pull into a running node."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicomnode.errors import NodeError
from dicomnode.fetch import pull, store_into
from dicomnode.network import commitment_scp
from dicomnode.network.association import Receiver
from dicomnode.network.commitment_scp import CommitmentProvider
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings, parse_config
from dicomnode.settings.references import find_source
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.manners import Manners
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.instances import write_instances
from tests.factories.ledger import new_ledger


class Scanner:
    """Sends, asks for commitment, and hears the report on the same association or on its own port."""

    def __init__(self) -> None:
        self.reports: list[Dataset] = []
        self.heard = threading.Event()
        entity = AE(ae_title="SCANNER")
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self.handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._hear)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=self.handlers)
        self.port = int(self.server.server_address[1])

    def _hear(self, event: Any) -> tuple[int, None]:
        self.reports.append(event.event_information)
        self.heard.set()
        return 0x0000, None

    def ask(self, port: int, uids: list[str], *, stay_s: float) -> int:
        """Ask, and stay on the association for some seconds; return the status."""
        entity = AE(ae_title="SCANNER")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", port, ae_title="NODE", evt_handlers=self.handlers)
        information = Dataset()
        information.TransactionUID = "2.25.4711"
        information.ReferencedSOPSequence = []
        for uid in uids:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MRImageStorage, uid
            information.ReferencedSOPSequence.append(item)
        answer, _ = association.send_n_action(
            information, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        if stay_s:
            self.heard.wait(stay_s)
            # Its answer to the report has to leave before it hangs up.
            time.sleep(0.2)
        association.release()
        return int(answer.Status)

    def uids(self, keyword: str) -> list[str]:
        return [str(item.ReferencedSOPInstanceUID) for item in self.reports[-1].get(keyword, [])]


class Node:
    """The receiving side; `start` and `stop` are a restart of the process."""

    def __init__(self, folder: Path, scanner_port: int | None) -> None:
        peer = {"ae_title": "SCANNER"} | ({"port": scanner_port} if scanner_port else {})
        self.folder = folder
        storage = {"root": str(folder), "minimum_free_mb": 1}
        self.config = parse_config(
            {"network": {"port": 0, "ae_title": "NODE"}, "peers": [peer], "storage": storage}
        )
        self.layout = SpoolLayout(self.config.storage.spool)
        self.start(answering=True)

    def start(self, *, answering: bool) -> None:
        self.ledger = new_ledger(self.config.storage.root)
        writer = SpoolWriter(self.layout, 0)
        self.provider = CommitmentProvider(
            self.config, self.ledger.commitments, writer.holds_whole, time.time
        )
        self.receiver = Receiver(
            self.config, writer, self.ledger.instances.add, time.time, self.provider.services(lambda _: False)
        )
        _, self.port = self.receiver.start()
        self.answering = answering
        if answering:
            self.provider.start()

    def stop(self) -> None:
        if self.answering:
            self.provider.stop()
        self.receiver.stop(1.0)
        self.ledger.close()

    def send(self, files: list[Path]) -> list[str]:
        peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=self.port)
        assert {one.verdict for one in send_files(files, peer, calling_ae="SCANNER", timeout_s=20)} == {"ok"}
        return [str(dcmread(path).SOPInstanceUID) for path in files]


@pytest.fixture
def scanner() -> Iterator[Scanner]:
    made = Scanner()
    yield made
    made.server.shutdown()


@pytest.fixture
def node(tmp_path: Path, scanner: Scanner) -> Iterator[Node]:
    made = Node(tmp_path / "node", scanner.port)
    yield made
    made.stop()


def test_a_scanner_that_stays_hears_it_where_it_asked(tmp_path: Path, scanner: Scanner) -> None:
    node = Node(tmp_path / "node", None)
    uids = node.send(write_instances(tmp_path / "images", 2))
    assert scanner.ask(node.port, [*uids, "2.25.8"], stay_s=30) == 0x0000
    node.stop()
    assert len(scanner.reports) == 1
    assert scanner.uids("ReferencedSOPSequence") == uids
    assert [
        (str(item.ReferencedSOPInstanceUID), item.FailureReason)
        for item in scanner.reports[0].FailedSOPSequence
    ] == [("2.25.8", 0x0112)]


def test_a_scanner_that_hangs_up_is_called_back(tmp_path: Path, scanner: Scanner, node: Node) -> None:
    uids = node.send(write_instances(tmp_path / "images", 2))
    assert scanner.ask(node.port, uids, stay_s=0) == 0x0000
    assert scanner.heard.wait(30)
    assert scanner.uids("ReferencedSOPSequence") == uids
    assert scanner.uids("FailedSOPSequence") == []


def test_what_was_asked_before_a_restart_is_answered_after_it(
    tmp_path: Path, scanner: Scanner, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody answers before the restart, so that a shorter wait changes nothing but the time.
    monkeypatch.setattr(commitment_scp, "_PATIENCE_S", 0.5)
    uids = node.send(write_instances(tmp_path / "images", 2))
    node.stop()
    node.start(answering=False)
    assert scanner.ask(node.port, uids, stay_s=0) == 0x0000
    assert not scanner.heard.is_set()
    node.stop()
    node.start(answering=True)
    assert scanner.heard.wait(30)
    assert scanner.uids("ReferencedSOPSequence") == uids


def test_a_request_that_names_nothing_is_refused(node: Node, scanner: Scanner) -> None:
    assert scanner.ask(node.port, [], stay_s=0) == 0x0115


def test_a_pull_by_c_get_is_as_safe_as_a_transfer(tmp_path: Path, node: Node) -> None:
    manners = Manners(find="image", retrieve=frozenset({"get"}))
    with Archive(tmp_path / "pacs", manners=manners) as archive:
        peer = DestinationSettings(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=archive.port)
        files = write_instances(tmp_path / "images", 3)
        send_files(files, peer, calling_ae="SCANNER", timeout_s=20)
        study = str(dcmread(files[0]).StudyInstanceUID)
        source = find_source(node.config, f"ARCHIVE@127.0.0.1:{archive.port}")
        pulled = pull(node.config, store_into(node.config, node.ledger, time.time), source, study)
        with pytest.raises(NodeError, match="does not list study 2\\.25\\.1"):
            pull(node.config, store_into(node.config, node.ledger, time.time), source, "2.25.1")
    got = {instance.SOPInstanceUID: instance for _, instance in node.ledger.instances.unindexed(10)}
    assert (pulled.retrieved.completed, pulled.expected, pulled.retrieved.service) == (3, 3, "C-GET")
    for path in files:
        original = dcmread(path)
        assert (
            dcmread(node.layout.root / got[str(original.SOPInstanceUID)].path).PixelData == original.PixelData
        )


def test_a_pull_by_c_move_comes_through_the_listener(tmp_path: Path, node: Node) -> None:
    manners = Manners(find="image", retrieve=frozenset({"move"}))
    with Archive(tmp_path / "pacs", manners=manners) as archive:
        files = write_instances(tmp_path / "images", 3)
        source = find_source(node.config, f"ARCHIVE@127.0.0.1:{archive.port}")
        send_files(files, source, calling_ae="SCANNER", timeout_s=20)
        study = str(dcmread(files[0]).StudyInstanceUID)
        store = store_into(node.config, node.ledger, time.time)
        with pytest.raises(NodeError, match="does not know our AE title, host and port: register them"):
            pull(node.config, store, source, study)
        manners.report_to["NODE"] = ("127.0.0.1", node.port)
        pulled = pull(node.config, store, source, study)
    assert (pulled.retrieved.completed, pulled.retrieved.service) == (3, "C-MOVE")
    assert len(node.ledger.instances.unindexed(10)) == 3
