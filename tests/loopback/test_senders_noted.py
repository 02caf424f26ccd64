"""Associations as they end are noted for those who wait for more: released, broken off, or open."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.ledger.ledger import Ledger
from dicomnode.network.association import Receiver
from dicomnode.records import AssociationNews, SenderHabits
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.ledger import STUDY, header, new_ledger
from tests.loopback.test_open_associations_and_the_clock import associated, store

RELEASE = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))


@contextlib.contextmanager
def node(folder: Path) -> Iterator[tuple[int, Ledger, list[AssociationNews]]]:
    config = parse_config(
        {"network": {"port": 0, "ae_title": "NODE"}, "storage": {"root": str(folder / "node")}}
    )
    config.storage.root.mkdir()
    ledger, news = new_ledger(config.storage.root), list[AssociationNews]()

    def listen(item: AssociationNews) -> None:
        ledger.senders.record([item])
        news.append(item)  # last: who waits for the news then finds it in the ledger

    receiver = Receiver(
        config,
        SpoolWriter(SpoolLayout(config.storage.spool), 0),
        ledger.instances.add,
        time.time,
        listener=listen,
    )
    yield receiver.start()[1], ledger, news
    receiver.stop(1.0)
    ledger.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def habits(ledger: Ledger) -> SenderHabits:
    return ledger.senders.habits_of_study(STUDY, 120.0)


@pytest.mark.parametrize("is_released", [True, False])
def test_how_an_association_ended_is_evidence(tmp_path: Path, is_released: bool) -> None:
    with node(tmp_path) as (port, ledger, news):
        with associated(port) as connection:
            assert store(connection, f"{STUDY}.9.1") == (4, 0)
            wait_for(lambda: bool(news))
            ((instance_id, _),) = ledger.instances.unindexed(1)
            ledger.instances.record_header(instance_id, header(1), 5.0)
            assert (habits(ledger).is_sending, habits(ledger).has_released) == (True, False)
            if is_released:
                connection.sendall(RELEASE)
                assert connection.recv(1) == bytes((6,))
        wait_for(lambda: len(news) == 2)
        assert (habits(ledger).is_sending, habits(ledger).has_released) == (False, is_released)


def test_an_association_that_stores_nothing_is_no_evidence(tmp_path: Path) -> None:
    with node(tmp_path) as (port, _, news):
        with associated(port) as connection:
            connection.sendall(RELEASE)
            assert connection.recv(1) == bytes((6,))
        time.sleep(0.3)
        assert news == []
