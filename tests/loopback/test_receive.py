"""Real associations to a real receiver with a real spool and a real ledger."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicomnode.errors import OutOfResources, PortError, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.association import Receiver
from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.settings.config import Config, parse_config
from dicomnode.spool import writer as spool_writer
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories import calling
from tests.factories.instances import small_instance, write_instances
from tests.factories.ledger import new_ledger

PRIVATE_CLASS = UID("1.3.12.2.1107.5.9.1")


@dataclass
class Node:
    """A receiver with everything behind it."""

    config: Config
    port: int
    layout: SpoolLayout
    ledger: Ledger
    receiver: Receiver

    def files(self) -> list[Path]:
        return sorted(path for path in self.layout.incoming.rglob("*") if path.is_file())

    def listed(self) -> list[ReceivedInstance]:
        return [instance for _, instance in self.ledger.instances.unindexed(10_000)]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Give a function that starts a receiver with settings."""
    nodes: list[Node] = []

    def start(
        add: Callable[[Ledger], Any] | None = None, minimum_free_bytes: int = 0, **settings: Any
    ) -> Node:
        network = {"port": 0, "ae_title": "NODE", **settings.pop("network", {})}
        root = tmp_path / f"node{len(nodes)}"
        root.mkdir()
        config = parse_config({"network": network, "storage": {"root": str(root)}, **settings})
        layout = SpoolLayout(config.storage.spool)
        ledger = new_ledger(config.storage.root)
        receiver = Receiver(
            config,
            SpoolWriter(layout, minimum_free_bytes),
            add(ledger) if add else ledger.instances.add,
            lambda: 1000.0,
        )
        host, port = receiver.start()
        assert host == "127.0.0.1"
        assert port > 0
        nodes.append(Node(config, port, layout, ledger, receiver))
        return nodes[-1]

    with calling.sockets_closed():
        yield start
    for node in nodes:
        node.receiver.stop(2.0)
        node.ledger.close()


def associate(node: Node, *arguments: Any, **titles: str) -> Association:
    return calling.associate(node.port, *arguments, **titles)


def store(node: Node, *instances: Dataset) -> list[int]:
    contexts = {
        (str(instance.SOPClassUID), (str(instance.file_meta.TransferSyntaxUID),)) for instance in instances
    }
    association = associate(node, sorted(contexts))
    assert association.is_established
    answers = [association.send_c_store(instance).Status for instance in instances]
    association.release()
    return answers


def encoded(instance: Dataset) -> bytes:
    """The dataset bytes as they travel."""
    buffer = DicomBytesIO()
    syntax = instance.file_meta.TransferSyntaxUID
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, instance)
    return bytes(buffer.getvalue())


def test_echo(start_node: Callable[..., Node]) -> None:
    association = associate(start_node(), [(Verification, (ImplicitVRLittleEndian,))])

    assert association.send_c_echo().Status == 0x0000
    association.release()
    assert association.is_released


def test_an_acknowledged_instance_is_in_the_spool_and_in_the_ledger_as_it_was_sent(
    start_node: Callable[..., Node],
) -> None:
    node, sent = start_node(), small_instance(7)

    assert store(node, sent) == [0x0000]

    [file] = node.files()
    [row] = node.listed()
    assert node.layout.root / row.path == file
    assert (row.SOPInstanceUID, row.calling_ae, row.peer_host, row.received_at) == (
        sent.SOPInstanceUID,
        "SCANNER",
        "127.0.0.1",
        1000.0,
    )
    kept = dcmread(io.BytesIO(file.read_bytes()))
    assert kept.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID
    assert kept.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert kept.PixelData == sent.PixelData
    assert file.read_bytes().endswith(encoded(sent))
    assert row.size_bytes == len(encoded(sent))


def test_what_is_kept_is_private_and_its_name_tells_nothing(start_node: Callable[..., Node]) -> None:
    node, sent = start_node(), small_instance(1)
    sent.SOPInstanceUID = sent.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    store(node, sent)

    [file] = node.files()

    assert re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{32}\.dcm", file.name)
    assert file.stat().st_mode & 0o777 == 0o600
    assert {
        folder.stat().st_mode & 0o777 for folder in (node.layout.root, node.layout.incoming, file.parent)
    } == {0o700}


def test_the_same_bytes_again_are_acknowledged_and_kept_once(start_node: Callable[..., Node]) -> None:
    node = start_node()

    assert store(node, small_instance(1), small_instance(1)) == [0, 0]
    assert store(node, small_instance(1)) == [0]

    assert len(node.files()) == len(node.listed()) == 1


def test_other_bytes_under_one_uid_are_kept_beside(start_node: Callable[..., Node]) -> None:
    outcomes: list[AddOutcome] = []

    def noting(ledger: Ledger) -> Callable[[ReceivedInstance], AddOutcome]:
        def add(instance: ReceivedInstance) -> AddOutcome:
            outcomes.append(ledger.instances.add(instance))
            return outcomes[-1]

        return add

    node = start_node(noting)

    assert store(node, small_instance(1, fill=3), small_instance(1, fill=4)) == [0, 0]

    assert outcomes == ["new", "conflict"]
    assert {dcmread(file).pixel_array[0, 0] for file in node.files()} == {3, 4}


def test_every_transfer_syntax_is_accepted(start_node: Callable[..., Node]) -> None:
    node = start_node()
    association = associate(node, [(MRImageStorage, (syntax,)) for syntax in AllTransferSyntaxes])

    accepted = {context.transfer_syntax[0] for context in association.accepted_contexts}
    association.release()

    assert accepted == set(AllTransferSyntaxes)
    assert {JPEG2000Lossless, JPEGLSLossless, RLELossless, ExplicitVRBigEndian} < accepted


def test_compressed_pixels_are_kept_as_they_came(start_node: Callable[..., Node]) -> None:
    node, sent = start_node(), small_instance(5)
    sent.compress(RLELossless, generate_instance_uid=False)

    assert store(node, sent) == [0]

    [file] = node.files()
    kept = dcmread(file)
    assert kept.file_meta.TransferSyntaxUID == RLELossless
    assert kept.PixelData == sent.PixelData
    assert (kept.pixel_array == 5).all()


def test_the_first_syntax_that_the_peer_names_wins(start_node: Callable[..., Node]) -> None:
    node = start_node()
    association = associate(
        node, [(MRImageStorage, ("1.2.3.4.5.6", ImplicitVRLittleEndian, ExplicitVRLittleEndian))]
    )

    [context] = association.accepted_contexts
    association.release()

    assert context.transfer_syntax == [ImplicitVRLittleEndian]


@pytest.mark.parametrize(("other_objects", "kept"), [("keep", True), ("refuse", False)])
def test_classes_that_are_no_mr_images(
    start_node: Callable[..., Node], other_objects: str, kept: bool
) -> None:
    node = start_node(network={"other_objects": other_objects})
    proposed = [
        (uid, (ExplicitVRLittleEndian,))
        for uid in (MRImageStorage, EnhancedMRImageStorage, CTImageStorage, PRIVATE_CLASS)
    ]
    association = associate(
        node, [*proposed, (StudyRootQueryRetrieveInformationModelFind, (ExplicitVRLittleEndian,))]
    )

    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    if kept:
        private = small_instance(1, SOPClassUID=PRIVATE_CLASS)
        assert association.send_c_store(private).Status == 0x0000
        assert [row.SOPClassUID for row in node.listed()] == [PRIVATE_CLASS]
    association.release()

    # A class that is asked, not stored, is never taken.
    assert accepted == {MRImageStorage, EnhancedMRImageStorage} | (
        {CTImageStorage, PRIVATE_CLASS} if kept else set()
    )


@pytest.mark.parametrize(
    ("settings", "caller", "called", "reason"),
    [
        ({}, "SCANNER", "WRONG", 7),
        ({"network": {"accept_unknown_peers": "never"}}, "STRANGER", "NODE", 3),
        (
            {
                "network": {"accept_unknown_peers": "never"},
                "peers": [{"ae_title": "SCANNER", "hosts": ["10.0.0.0/8"]}],
            },
            "SCANNER",
            "NODE",
            3,
        ),
        # Known by name from elsewhere: an allowance for strangers does not help.
        (
            {
                "network": {"accept_unknown_peers": "always"},
                "peers": [{"ae_title": "SCANNER", "hosts": ["10.1.1.1"]}],
            },
            "SCANNER",
            "NODE",
            3,
        ),
    ],
)
def test_who_may_not_call_is_rejected_for_good(
    start_node: Callable[..., Node], settings: Any, caller: str, called: str, reason: int
) -> None:
    association = associate(start_node(**settings), calling=caller, called=called)

    assert association.is_rejected
    answer = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, reason)


def test_who_may_call_comes_in(start_node: Callable[..., Node]) -> None:
    node = start_node(
        network={"accept_unknown_peers": "never"}, peers=[{"ae_title": "SCANNER", "hosts": ["127.0.0.0/8"]}]
    )

    association = associate(node)

    assert association.is_established
    association.release()


def test_one_association_too_many_is_rejected_for_the_moment(start_node: Callable[..., Node]) -> None:
    node = start_node(network={"maximum_associations": 1})
    first = associate(node)

    second = associate(node)

    assert first.is_established
    assert second.is_rejected
    assert second.acceptor.primitive.result == 2
    first.release()
    assert _eventually(lambda: _comes_in(node))


def test_a_full_disk_is_answered_a700_and_the_association_goes_on(
    start_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, real = start_node(), os.writev
    full = [True]

    def writev(handle: int, parts: Any) -> int:
        if full:
            full.pop()
            # Half of it fits.
            real(handle, [memoryview(parts[0])[:100]])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, parts)

    monkeypatch.setattr(spool_writer.os, "writev", writev)

    assert store(node, small_instance(1), small_instance(2)) == [0xA700, 0x0000]

    assert len(node.files()) == len(node.listed()) == 1
    assert node.listed()[0].SOPInstanceUID == small_instance(2).SOPInstanceUID


def test_less_free_space_than_configured_is_answered_a700(start_node: Callable[..., Node]) -> None:
    node = start_node(minimum_free_bytes=2**60)

    assert store(node, small_instance(1)) == [0xA700]
    assert node.files() == []


@pytest.mark.parametrize(
    ("fault", "answer"),
    [(RetryLater("locked"), 0xA700), (OutOfResources("full"), 0xA700), (ZeroDivisionError(), 0x0110)],
)
def test_a_ledger_that_fails_is_never_answered_success(
    start_node: Callable[..., Node], fault: Exception, answer: int
) -> None:
    faults = [fault]

    def failing_once(ledger: Ledger) -> Callable[[ReceivedInstance], AddOutcome]:
        def add(instance: ReceivedInstance) -> AddOutcome:
            if faults:
                raise faults.pop()
            return ledger.instances.add(instance)

        return add

    node = start_node(failing_once)

    assert store(node, small_instance(1), small_instance(1)) == [answer, 0x0000]
    assert len(node.files()) == len(node.listed()) == 1


def test_a_request_without_dataset_is_answered_and_harms_nothing(start_node: Callable[..., Node]) -> None:
    node = start_node()
    association = associate(node)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = MRImageStorage, "1.2.3"

    association._reactor_checkpoint.clear()
    assert _eventually(lambda: association._is_paused)
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()

    assert answer.Status == 0xC000
    assert association.send_c_store(small_instance(1)).Status == 0x0000
    association.release()
    assert len(node.files()) == 1


def test_noise_on_the_port_and_a_peer_that_vanishes_disturb_nobody(start_node: Callable[..., Node]) -> None:
    node = start_node()
    with socket.create_connection(("127.0.0.1", node.port)) as noise:
        noise.sendall(b"GET / HTTP/1.0\r\n\r\n")
    vanishing = associate(node)
    assert vanishing.send_c_store(small_instance(1)).Status == 0
    vanishing.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    assert store(node, small_instance(2)) == [0]
    assert len(node.listed()) == 2
    vanishing.abort()


def test_a_peer_that_stops_in_the_middle_of_a_pdu_is_let_go(start_node: Callable[..., Node]) -> None:
    node = start_node(network={"network_timeout_s": 0.3, "maximum_associations": 1})
    association = associate(node)
    association.dul.socket.socket.sendall(b"\x04\x00\x00\x00\xff\xff half")

    # The one place is free again.
    assert _eventually(lambda: _comes_in(node))
    association.abort()


def test_a_taken_port_is_told_to_the_caller(start_node: Callable[..., Node], tmp_path: Path) -> None:
    node = start_node()
    config = parse_config({"network": {"port": node.port}})
    second = Receiver(
        config, SpoolWriter(SpoolLayout(tmp_path / "second"), 0), node.ledger.instances.add, time.time
    )

    with pytest.raises(PortError, match=f"{node.port}.*network.port"):
        second.start()


def test_nothing_of_the_patient_is_logged(
    start_node: Callable[..., Node], capfd: pytest.CaptureFixture[str]
) -> None:
    node = start_node(network={"other_objects": "refuse"})
    association = associate(
        node, [(MRImageStorage, (ExplicitVRLittleEndian,)), (CTImageStorage, (ExplicitVRLittleEndian,))]
    )
    association.send_c_store(small_instance(1, fill=1))
    association.send_c_store(small_instance(1, fill=2))
    association.release()

    shown = "".join(capfd.readouterr())
    assert CTImageStorage in shown
    assert not re.search("secret", shown, re.IGNORECASE)


def test_four_senders_at_once(
    start_node: Callable[..., Node], tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    node, storescu = start_node(), require_tool("storescu")
    for sender in range(4):
        write_instances(tmp_path / str(sender), 12, seed=f"sender {sender}", side=128)

    command = [storescu, "-aec", "NODE", "127.0.0.1", str(node.port), "+sd"]
    senders = [subprocess.Popen([*command, tmp_path / str(sender)]) for sender in range(4)]

    assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
    assert len(node.files()) == len(node.listed()) == 48
    assert {row.path for row in node.listed()} == {
        str(file.relative_to(node.layout.root)) for file in node.files()
    }


def _comes_in(node: Node) -> bool:
    association = associate(node)
    came_in = association.is_established
    if came_in:
        association.release()
    return came_in


def _eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_a_file_that_retention_takes_while_it_is_listed_is_written_again(
    start_node: Callable[..., Node],
) -> None:
    removals = [1, 1]

    def taken_from(ledger: Ledger) -> Callable[[ReceivedInstance], AddOutcome]:
        def add(instance: ReceivedInstance) -> AddOutcome:
            outcome = ledger.instances.add(instance)
            if removals:
                removals.pop()
                (node.layout.root / instance.path).unlink()
            return outcome

        return add

    node = start_node(taken_from)
    assert store(node, small_instance(1)) == [0x0000]
    assert len(node.files()) == 1

    removals.extend([1, 1, 1])
    assert store(node, small_instance(2)) == [0xA700]
