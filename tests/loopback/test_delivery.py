"""Delivery over real associations: an archive that is down, refuses, is full or dies between: results arrive after it, once."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage, generate_uid

from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.ledger.shown import plain
from dicomnode.records import Conclusion, ResultFile
from dicomnode.settings.config import Config, DeliverySettings, DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from tests.factories.instances import small_instance
from tests.factories.ledger import STUDY, LedgerStory, new_ledger, release_owner, sqlite_url

CLASSES = {"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage}


@dataclass
class Node:
    """The delivering side of a node: one answered study, frozen in a spool."""

    folder: Path
    archives: dict[str, Archive]
    clock: float = 100.0
    results: list[ResultFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = new_ledger(self.folder)
        self.layout = SpoolLayout(self.folder / "spool")
        job = LedgerStory(self.ledger).running()
        self.results = [self.freeze(number, kind) for number, kind in enumerate(CLASSES, start=1)]
        destinations = dict.fromkeys(self.archives, tuple(CLASSES))
        self.ledger.jobs.finish(
            job.id, "work:1", Conclusion(Outcome.LESIONS, "2 lesions", self.results, destinations, {}), 40
        )

    def freeze(self, number: int, kind: str) -> ResultFile:
        instance = small_instance(number, SOPClassUID=CLASSES[kind], seed="result")
        buffer = io.BytesIO()
        instance.save_as(buffer, enforce_file_format=True)
        path = self.layout.result_path(STUDY, 1, f"{kind}.dcm")
        file = self.layout.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(buffer.getvalue())
        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        return ResultFile(
            kind, path, sha256, instance.SOPInstanceUID, CLASSES[kind], instance.SeriesInstanceUID
        )

    def deliver(self, seconds_later: float = 0.0) -> int:
        self.clock += seconds_later
        destinations = tuple(
            DestinationSettings(name=name, ae_title=archive.ae_title, host="127.0.0.1", port=archive.port)
            for name, archive in self.archives.items()
        )
        config = Config(destinations=destinations, delivery=DeliverySettings(timeout_s=5, confirm_first_s=0))
        tried = deliver_due(self.ledger, self.layout, config, lambda: self.clock)
        confirm_due(self.ledger, config, lambda: self.clock, generate_uid)
        self.ledger.jobs.close_delivered(self.clock)
        return tried

    def states(self, destination: str = "pacs") -> list[str]:
        return [
            one["state"]
            for one in plain(self.ledger.history.of_study(STUDY))["deliveries"]
            if one["destination"] == destination
        ]

    def statuses(self) -> list[str]:
        return [one["last_status"] for one in plain(self.ledger.history.of_study(STUDY))["deliveries"]]

    def last_status(self) -> str:
        return self.statuses()[0]

    def job_state(self) -> str:
        state: str = plain(self.ledger.history.of_study(STUDY))["jobs"][-1]["state"]
        return state


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "archive")
    # A port of its own, which is then free: this is an archive that is down.
    made.start()
    made.stop()
    yield made
    made.stop()


@pytest.fixture
def node(tmp_path: Path, archive: Archive) -> Iterator[Node]:
    made = Node(tmp_path / "node", {"pacs": archive})
    yield made
    made.ledger.close()


def arrived(archive: Archive) -> dict[str, str]:
    """SOP Instance UID -> SOP Class UID of what lies in the archive, read back from its files."""
    kept = [dcmread(path) for path in archive.files]
    return {str(one.SOPInstanceUID): str(one.SOPClassUID) for one in kept}


def expected(node: Node) -> dict[str, str]:
    return {result.SOPInstanceUID: result.SOPClassUID for result in node.results}


def test_results_arrive_once_and_are_the_frozen_datasets(node: Node, archive: Archive) -> None:
    with archive:
        assert node.deliver() == 2
        assert node.deliver(3600) == 0
    assert arrived(archive) == expected(node)
    assert archive.received == tuple(result.SOPInstanceUID for result in node.results)
    for result in node.results:
        frozen, kept = (
            dcmread(node.layout.root / result.path),
            dcmread(archive.folder / f"{result.SOPInstanceUID}.dcm"),
        )
        assert kept == frozen
    assert (node.states(), node.job_state()) == (["sent", "sent"], "done")


def test_an_archive_that_was_down_for_a_while_gets_everything_once(node: Node, archive: Archive) -> None:
    for _ in range(3):
        node.deliver(30)
    assert (node.states(), node.job_state()) == (["due", "due"], "encoded")
    assert "cannot be reached" in node.last_status()
    with archive:
        node.deliver(900)
        node.deliver(900)
    assert arrived(archive) == expected(node)
    assert len(archive.received) == 2
    assert node.job_state() == "done"


@pytest.mark.parametrize("silent_at", [1, 2])
def test_an_archive_that_falls_silent_gets_what_it_has_not_got_and_the_time_out_is_named(
    node: Node, archive: Archive, silent_at: int
) -> None:
    archive.manners.silent_at = silent_at
    with archive:
        node.deliver()
        assert node.states() == [*["sent"] * (silent_at - 1), *["due"] * (3 - silent_at)]
        assert (
            node.statuses()[silent_at - 1 :]
            == ["no answer within 5 s", "the association broke off"][: 3 - silent_at]
        )
    archive.manners.silent_at = 0
    with archive:
        node.deliver(900)
    assert arrived(archive) == expected(node)
    assert sorted(archive.received) == sorted(expected(node))
    assert node.job_state() == "done"


def test_a_full_archive_is_tried_again(node: Node, archive: Archive) -> None:
    archive.answer = 0xA700
    with archive:
        node.deliver()
        assert node.states() == ["due", "due"]
        assert "0xA700" in node.last_status()
        assert node.deliver(1) == 0
        archive.answer = 0x0000
        node.deliver(10)
    assert arrived(archive) == expected(node)
    assert node.job_state() == "done"


def test_a_warning_is_an_arrival(node: Node, archive: Archive) -> None:
    archive.answer = 0xB000
    with archive:
        node.deliver()
    assert node.states() == ["sent", "sent"]
    assert arrived(archive) == expected(node)


def test_an_archive_that_takes_no_segmentation_gets_the_report_and_the_refusal_is_shown(
    node: Node, archive: Archive
) -> None:
    archive.refuse = frozenset({SegmentationStorage})
    with archive:
        node.deliver()
        assert node.deliver(3600) == 0
    assert node.states() == ["given_up", "sent"]
    assert arrived(archive) == {node.results[1].SOPInstanceUID: node.results[1].SOPClassUID}
    assert (node.job_state(), "does not take" in node.last_status()) == ("encoded", True)


def test_retry_after_the_archive_learned_to_take_it(node: Node, archive: Archive) -> None:
    archive.refuse = frozenset(CLASSES.values())
    with archive:
        node.deliver()
    assert node.states() == ["given_up", "given_up"]
    archive.refuse = frozenset()
    with archive:
        node.ledger.jobs.retry(STUDY, node.clock)
        node.deliver()
    assert arrived(archive) == expected(node)
    assert node.job_state() == "done"


def test_a_wrong_called_ae_title_stops_and_says_so(node: Node, archive: Archive, tmp_path: Path) -> None:
    with Archive(tmp_path / "other", ae_title="OTHER") as other:
        node.archives["pacs"] = Archive(tmp_path / "never", port=other.port)
        node.deliver()
    assert node.states() == ["given_up", "given_up"]
    assert "rejected" in node.last_status()


def test_a_dead_destination_does_not_keep_the_other_waiting(tmp_path: Path, archive: Archive) -> None:
    alive = Archive(tmp_path / "alive", ae_title="ALIVE")
    with alive:
        node = Node(tmp_path / "node", {"dead": archive, "alive": alive})
        assert node.deliver() == 4
        assert (node.states("dead"), node.states("alive")) == (["due", "due"], ["sent", "sent"])
        assert node.job_state() == "encoded"
        with archive:
            node.deliver(5)
    assert arrived(archive) == arrived(alive) == expected(node)
    assert (len(alive.received), node.job_state()) == (2, "done")
    node.ledger.close()


def test_a_sender_killed_after_sending_sends_the_same_bytes_again_and_the_archive_keeps_one(
    node: Node, archive: Archive
) -> None:
    """The one moment that cannot be made safe: the peer has said yes, and we die before it is written down."""
    with archive:
        held = node.ledger.deliveries.claim("work@host/pacs/dead", node.clock, 600, 10)
        assert len(held) == 2
        node.deliver()
        assert archive.received == ()
        release_owner(node.ledger, "work@host", node.clock)
        node.deliver()
        before = {path.name: path.read_bytes() for path in archive.files}
        node.ledger.deliveries.record(
            held[0].id, type(held[0].state)("due"), "as if the answer was lost", node.clock, node.clock
        )
        node.deliver()
        assert {path.name: path.read_bytes() for path in archive.files} == before
    assert len(archive.received) == 3
    assert arrived(archive) == expected(node)


KILLED_WHILE_SENDING = """
import sys
from pathlib import Path
from dicomnode.settings.config import Config, DestinationSettings
from dicomnode.delivery.deliver import deliver_due
from dicomnode.ledger.ledger import Ledger
from dicomnode.spool.layout import SpoolLayout
folder = Path(sys.argv[1])
config = Config(destinations=(DestinationSettings(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=int(sys.argv[2])),))
deliver_due(Ledger.open(sys.argv[3]), SpoolLayout(folder / "spool"), config, lambda: 100.0, owner="work@host")
"""


@pytest.mark.slow
def test_a_process_killed_while_it_sends_leaves_its_work_to_the_next(
    node: Node, archive: Archive, repo_root: Path
) -> None:
    archive.slow_s = 1.0
    with archive:
        arguments = [str(node.folder), str(archive.port), sqlite_url(node.folder)]
        process = subprocess.Popen([sys.executable, "-c", KILLED_WHILE_SENDING, *arguments], cwd=repo_root)
        deadline = time.monotonic() + 60
        while node.states() != ["sending", "sending"] and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert node.states() == ["sending", "sending"]
        assert node.deliver() == 0
        assert release_owner(node.ledger, "work@host", node.clock) == 2
        archive.slow_s = 0.0
        node.deliver()
    assert arrived(archive) == expected(node)
    assert (node.states(), node.job_state()) == (["sent", "sent"], "done")
