"""What `receive` tells `work`: the bell, the messenger, and timers that are woken."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from dicomnode.errors import RetryLater
from dicomnode.processes.bell import BELL_NAME, open_bell, ring
from dicomnode.processes.messenger import Messenger
from dicomnode.processes.waker import Waker
from dicomnode.records import AssociationNews
from tests.factories.ledger import received


def test_a_ring_is_heard_however_long_the_folder_is_named(tmp_path: Path) -> None:
    root = tmp_path / ("a" * 120)
    root.mkdir()
    assert not ring(root)
    rung = threading.Event()
    bell = open_bell(root, rung.set)
    assert bell is not None
    try:
        assert (root / BELL_NAME).stat().st_mode & 0o077 == 0
        assert ring(root)
        assert rung.wait(5)
    finally:
        bell.close()
    assert not (root / BELL_NAME).exists()
    assert not ring(root)


def test_a_bell_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / BELL_NAME).touch()
    rung = threading.Event()
    bell = open_bell(tmp_path, rung.set)
    assert bell is not None
    try:
        assert ring(tmp_path)
        assert rung.wait(5)
    finally:
        bell.close()


def test_where_no_bell_can_hang_work_goes_on_without(tmp_path: Path) -> None:
    assert open_bell(tmp_path / "absent", lambda: None) is None


def test_news_waits_for_the_ledger_and_each_listed_instance_rings() -> None:
    recorded, rung, failures = list[AssociationNews](), threading.Semaphore(0), [RetryLater("locked")]

    def record(news: Sequence[AssociationNews]) -> None:
        if failures:
            raise failures.pop()
        recorded.extend(news)

    messenger = Messenger(record, rung.release)
    news = [AssociationNews(str(number), "SCANNER", "10.0.0.7", 1.0) for number in range(3)]
    try:
        for item in news:
            messenger.note_association(item)
        assert messenger.watch(lambda _: "new")(received(1)) == "new"
        assert rung.acquire(timeout=5)
    finally:
        messenger.close()
    assert recorded == news


def test_a_timer_that_is_woken_while_it_runs_runs_once_more() -> None:
    triggered, waker = list[str](), Waker()
    waker.attach(lambda name, _at: triggered.append(name), {"index": 1, "answer": 2})
    waker.wake("index", "answer")
    assert triggered == ["index", "answer"]
    with waker.run("index"), waker.run("answer"):
        waker.wake("index", "answer")
        assert waker.is_wanted_again("index")
        assert not waker.is_wanted_again("answer")
    assert triggered == ["index", "answer", "answer"]
    with waker.run("index"):
        assert not waker.is_wanted_again("index")
