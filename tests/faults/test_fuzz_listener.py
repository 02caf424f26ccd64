"""Damaged PDUs against the live listener: it neither crashes, hangs nor leaks, and other peers lose nothing meanwhile.

DICOMNODE_FUZZ_INPUTS=20000 python -m pytest -m faults tests/faults/test_fuzz_listener.py -s     # the long form
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pydicom.filereader import read_file_meta_info

from dicomnode.ledger.ledger import Ledger
from dicomnode.network.association import Receiver
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.instances import write_instances
from tests.factories.mutate import mutate
from tests.factories.pdus import A_RELEASE_RQ, associate_request, pdata, store_request

pytestmark = [pytest.mark.slow, pytest.mark.faults]

SEED = 20261126
INPUTS = int(os.environ.get("DICOMNODE_FUZZ_INPUTS", "600"))
JUNK = int(os.environ.get("DICOMNODE_JUNK_CONNECTIONS", "1000"))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[int, Path, Ledger]]:
    # Short timeouts: a peer that stops in the middle is waited for, and here that is most of them.
    network = {
        "port": 0, "ae_title": "NODE", "acse_timeout_s": 1, "dimse_timeout_s": 1, "network_timeout_s": 1,
        "maximum_associations": 40, "maximum_associations_per_peer": 40, "maximum_instance_mb": 1, "receive_memory_mb": 8,
    }  # fmt: skip
    config = parse_config(
        {"network": network, "storage": {"root": str(tmp_path / "node"), "minimum_free_mb": 0}}
    )
    config.storage.root.mkdir()
    ledger = Ledger.open(config.storage.database_url)
    receiver = Receiver(
        config, SpoolWriter(SpoolLayout(config.storage.spool), 0), ledger.instances.add, time.time
    )
    yield receiver.start()[1], tmp_path / "node", ledger
    receiver.stop(2.0)
    ledger.close()


def conversation(chance: random.Random, dataset: bytes) -> list[bytes]:
    """Return the PDUs of a well-behaved sender of one instance, cut into fragments at random."""
    half = chance.randrange(0, len(dataset) + 1)
    uid = f"1.2.3.{chance.randrange(10**9)}"
    return [
        associate_request(),
        store_request(uid, dataset=1),
        pdata(dataset[:half], 0),
        pdata(dataset[half:], 2),
        A_RELEASE_RQ,
    ]


def damaged(chance: random.Random, dataset: bytes) -> list[bytes]:
    """Return a conversation with damaged PDUs, or PDUs in another order, or too many of them."""
    pdus = conversation(chance, dataset)
    kind = chance.randrange(6)
    if kind == 0:
        pdus[0] = mutate(pdus[0], chance)
    elif kind == 1:
        at = chance.randrange(1, len(pdus))
        pdus[at] = mutate(pdus[at], chance)
    elif kind == 2:
        chance.shuffle(pdus)
    elif kind == 3:
        pdus = [chance.choice(pdus) for _ in range(chance.randint(1, 12))]
    elif kind == 4:
        pdus.insert(
            chance.randrange(len(pdus)),
            struct.pack(">BxL", chance.randrange(256), chance.choice((0, 4, 2**31, 2**32 - 1))),
        )
    else:
        return [pdus[0], mutate(b"".join(pdus[1:]), chance)]
    return pdus


def say(port: int, pdus: list[bytes]) -> bool:
    """Ask for an association, say the rest once that is answered, and leave; return whether an association was accepted."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(0.5)
        connection.sendall(pdus[0])
        accepted = connection.recv(65536)[:1] == b"\x02"
        connection.sendall(b"".join(pdus[1:]))
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while connection.recv(65536):
                pass
        return accepted
    return False


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def settled(threads: int, open_files: int) -> tuple[int, int]:
    """Wait until no more threads and files are open than at first; return what is over."""
    end = time.monotonic() + 60
    while time.monotonic() < end and (threading.active_count() > threads or handles() > open_files):
        time.sleep(0.1)
    return threading.active_count() - threads, handles() - open_files


@pytest.mark.timeout(3600)
def test_damaged_conversations(listener: tuple[int, Path, Ledger], tmp_path: Path) -> None:
    port, root, ledger = listener
    chance = random.Random(SEED)
    files = write_instances(tmp_path / "study", 60, seed="other peer")
    dataset = files[0].read_bytes()[read_file_meta_info(files[0]).FileMetaInformationGroupLength + 144 :]
    peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=port)
    acknowledged: set[Path] = set()
    stop = threading.Event()

    def honest() -> None:
        left = list(files)
        while left and not stop.is_set():
            outcomes = send_files(left[:3], peer, calling_ae="HONEST", timeout_s=20)
            acknowledged.update(
                file for file, outcome in zip(left[:3], outcomes, strict=True) if outcome.verdict == "ok"
            )
            left = [file for file in left if file not in acknowledged]

    send_files(files[:1], peer, calling_ae="HONEST", timeout_s=20)
    threads, open_files = threading.active_count(), handles()
    other = threading.Thread(target=honest)
    other.start()
    try:
        accepted = sum(say(port, damaged(chance, dataset)) for _ in range(INPUTS))
        other.join(120)
    finally:
        stop.set()

    over = settled(threads, open_files)
    rows = {row.SOPInstanceUID: row for _, row in ledger.instances.unindexed(100_000)}
    sys.stdout.write(
        f"\nseed {SEED}: {INPUTS} damaged conversations ({accepted} got an association), 0 crashes, {over[0]} threads and {over[1]} handles over; {len(rows)} instances listed"
    )
    assert len(acknowledged) == len(files)
    assert {str(read_file_meta_info(file).MediaStorageSOPInstanceUID) for file in files} <= set(rows)
    assert all((root / "spool" / row.path).exists() for row in rows.values())
    assert accepted > INPUTS / 4
    assert over[0] <= 0
    assert over[1] <= 2  # The ledger may open a connection more.


@pytest.mark.timeout(3600)
def test_junk_connections_leave_the_node_serving(listener: tuple[int, Path, Ledger], tmp_path: Path) -> None:
    port, _root, _ledger = listener
    chance = random.Random(SEED)
    files = write_instances(tmp_path / "study", 1)
    peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=port)
    threads, open_files = threading.active_count(), handles()
    junk = (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 64, b"\xff" * 300)
    refused = 0
    for _ in range(JUNK):
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(chance.choice(junk))
        except OSError:
            refused += 1

    over = settled(threads, open_files)
    outcomes = send_files(files, peer, calling_ae="HONEST", timeout_s=30)
    sys.stdout.write(
        f"\nseed {SEED}: {JUNK} junk connections, {refused} cut off at once, {over[0]} threads and {over[1]} handles over; then {outcomes[0].reason}"
    )
    assert [outcome.verdict for outcome in outcomes] == ["ok"]
    assert over[0] <= 0
    assert over[1] <= 2
