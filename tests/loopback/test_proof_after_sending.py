"""Proof after sending, against archives that lie, forget, report late or not at all: how each ends is read from `dicomnode why`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import SegmentationStorage, generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT

from dicomnode.commands.story import story
from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.ledger.shown import plain
from dicomnode.network import commitment
from dicomnode.network.association import Receiver
from dicomnode.network.commitment import report_handler
from dicomnode.records import CommitmentReport, Conclusion, SOPReference
from dicomnode.settings.config import Config, parse_config
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.manners import Manners
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from dicomnode.states import Outcome
from tests.factories.ledger import STUDY, LedgerStory, new_ledger
from tests.factories.outbox import freeze_results

AE_TITLE = "NODE"


class Node:
    """One answered study with a SEG and an SR to deliver to one archive; the clock is set by hand."""

    def __init__(self, folder: Path, archive: Archive) -> None:
        self.folder, self.archive, self.clock = folder, archive, 100.0
        self.ledger = new_ledger(folder)
        self.layout = SpoolLayout(folder / "spool")
        self.receiver: Receiver | None = None
        job = LedgerStory(self.ledger).running()
        self.results = freeze_results(self.layout, STUDY, 1)
        self.ledger.jobs.finish(
            job.id,
            "work:1",
            Conclusion(Outcome.LESIONS, "2 lesions", self.results, {"pacs": ("seg", "sr")}, {}),
            40,
        )

    def config(self, confirm: str, index_wait_s: float = 0) -> Config:
        destination = {
            "name": "pacs",
            "ae_title": "ARCHIVE",
            "host": "127.0.0.1",
            "port": self.archive.port,
            "confirm": confirm,
        }
        return parse_config(
            {
                "network": {"port": 0, "ae_title": AE_TITLE},
                "destinations": [destination],
                "delivery": {
                    "timeout_s": 5,
                    "confirm_first_s": 0,
                    "confirm_wait_s": 60,
                    "confirm_tries": 2,
                    "index_wait_s": index_wait_s,
                    "resends": 2,
                },
            }
        )

    def listen(self) -> None:
        """Listen as `receive` does, so that the archive can call back."""
        services = (
            (
                evt.EVT_N_EVENT_REPORT,
                report_handler(lambda report: self.ledger.confirmations.report(report, self.clock)),
            ),
        )
        receiver = Receiver(
            self.config("auto"), SpoolWriter(self.layout, 0), self.ledger.instances.add, time.time, services
        )
        self.archive.manners.report_to[AE_TITLE] = ("127.0.0.1", receiver.start()[1])
        self.receiver = receiver

    def run(self, confirm: str = "auto", seconds_later: float = 0.0, index_wait_s: float = 0) -> None:
        """Do what the timers do, once."""
        self.clock += seconds_later
        config = self.config(confirm, index_wait_s)
        deliver_due(self.ledger, self.layout, config, lambda: self.clock)
        confirm_due(self.ledger, config, lambda: self.clock, generate_uid)
        confirm_due(self.ledger, config, lambda: self.clock, generate_uid)
        self.ledger.jobs.close_delivered(self.clock)

    def restart(self) -> None:
        """Forget everything that is not in the ledger."""
        self.ledger.close()
        self.ledger = new_ledger(self.folder)

    def why(self) -> str:
        return "\n".join(story(self.ledger.history.of_study(STUDY)))

    def states(self) -> list[str]:
        return [one["state"] for one in plain(self.ledger.history.of_study(STUDY))["deliveries"]]

    def job_state(self) -> str:
        return str(plain(self.ledger.history.of_study(STUDY))["jobs"][-1]["state"])

    def close(self) -> None:
        if self.receiver is not None:
            self.receiver.stop(2.0)
        self.ledger.close()


@pytest.fixture
def node_and(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Give a function: manners and archive settings -> a node beside a running archive."""
    made: list[Node] = []

    def make(manners: Manners, **archive: Any) -> Node:
        if manners.commitment != "same":
            # Nothing comes on the association of the request, so nothing is lost by a short wait for it.
            monkeypatch.setattr(commitment, "LINGER_S", 0.1)
        running = Archive(tmp_path / "archive", manners=manners, **archive)
        running.start()
        made.append(Node(tmp_path / "node", running))
        return made[-1]

    yield make
    for node in made:
        node.archive.stop()
        node.close()


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def is_due(node: Node) -> bool:
    return bool(node.ledger.confirmations.due_destinations(node.clock))


def test_commitment_reported_on_the_association_of_the_request(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="same"))
    node.run()
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")
    assert (
        "seg to pacs: confirmed (1 try) the peer committed itself to keep it (storage commitment)"
        in node.why()
    )
    assert len(node.archive.transactions) == 1


def test_commitment_reported_on_a_new_association_after_a_restart(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="new"))
    node.run()
    assert (node.states(), node.job_state()) == (["sent", "sent"], "encoded")
    assert "to be proved" in node.why()
    node.restart()
    node.listen()
    # As asked, but nobody listened: it is asked again, and this time the archive gets through.
    node.run("commitment", seconds_later=61)
    wait_until(lambda: is_due(node) or node.states() == ["confirmed", "confirmed"])
    node.run("commitment")
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")
    assert len(node.archive.transactions) == 2


def test_a_report_that_came_before_the_restart_is_not_asked_for_again(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="new"))
    node.listen()
    config = node.config("commitment")
    deliver_due(node.ledger, node.layout, config, lambda: node.clock)
    confirm_due(node.ledger, config, lambda: node.clock, generate_uid)
    wait_until(lambda: is_due(node))
    node.restart()
    node.run("commitment")
    assert node.states() == ["confirmed", "confirmed"]
    assert len(node.archive.transactions) == 1


def test_what_the_archive_does_not_commit_itself_to_is_sent_again(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="same", forgets_first=1))
    node.run()
    assert node.states() == ["due", "confirmed"]
    assert "storage commitment failed, 0x0112: no such object instance" in node.why()
    node.run(seconds_later=30)
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")
    seg = node.results[0].SOPInstanceUID
    assert node.archive.received.count(seg) == 2
    assert f"{seg}.dcm" in {path.name for path in node.archive.files}
    assert "not-kept" in node.why()
    assert "sent again 1 time" in node.why()


@pytest.mark.parametrize("manners", [{"commitment": "same"}, {"find": "image"}, {"find": "series"}], ids=str)
def test_an_archive_that_keeps_nothing_is_found_out_and_shown(
    node_and: Callable[..., Node], manners: dict[str, Any]
) -> None:
    node = node_and(Manners(keeps_nothing=True, **manners))
    rounds = 0
    while node.states() != ["given_up", "given_up"] and rounds < 12:
        node.run(seconds_later=60)
        rounds += 1
    assert (node.states(), node.job_state()) == (["given_up", "given_up"], "encoded")
    assert "sent 3 times" in node.why()
    assert "delivery-given-up" in node.why()
    assert len(node.archive.received) == 6
    node.archive.manners.keeps_nothing = False
    node.ledger.jobs.retry(STUDY, node.clock)
    node.run()
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")


def test_commitment_that_is_never_reported_is_asked_again_and_then_looked_up(
    node_and: Callable[..., Node],
) -> None:
    node = node_and(Manners(commitment="never", find="image"))
    node.run()
    assert node.states() == ["sent", "sent"]
    node.run(seconds_later=61)
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")
    assert "the peer lists it (query)" in node.why()


def test_commitment_that_is_never_reported_is_given_up_where_nothing_else_is_allowed(
    node_and: Callable[..., Node],
) -> None:
    node = node_and(Manners(commitment="never", find="image"))
    for _ in range(4):
        node.run("commitment", seconds_later=61)
    assert node.states() == ["given_up", "given_up"]
    assert len(node.archive.transactions) == 2
    assert (
        "no report on storage commitment within 60 s, asked 2 times; see that it knows our AE title, host and port"
        in node.why()
    )


def test_an_archive_that_is_away_is_asked_until_it_is_back_however_long(
    node_and: Callable[..., Node],
) -> None:
    node = node_and(Manners(find="image"))
    config = node.config("find")
    deliver_due(node.ledger, node.layout, config, lambda: node.clock)
    node.archive.stop()
    for _ in range(6):
        node.run("find", seconds_later=900)
    assert node.states() == ["sent", "sent"]
    assert "sent, not proved yet: the peer cannot be reached" in node.why()
    node.archive.start()
    node.run("find", seconds_later=900)
    assert node.states() == ["confirmed", "confirmed"]
    assert len(node.archive.received) == 2


def test_an_archive_without_any_proof_is_believed_and_that_is_said(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners())
    node.run()
    assert (node.states(), node.job_state()) == (["sent", "sent"], "done")
    assert "has no way to prove it (the peer does not offer C-FIND)" in node.why()


@pytest.mark.parametrize(("confirm", "missing"), [("commitment", "storage commitment"), ("find", "C-FIND")])
def test_a_proof_that_is_required_and_not_offered_is_shown(
    node_and: Callable[..., Node], confirm: str, missing: str
) -> None:
    node = node_and(Manners())
    node.run(confirm)
    assert node.states() == ["given_up", "given_up"]
    assert f"cannot prove it: the peer does not offer {missing}; set confirm to" in node.why()


def test_without_confirm_nobody_is_asked(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="same"))
    node.run("none")
    assert (node.states(), node.job_state()) == (["sent", "sent"], "done")
    assert node.archive.transactions == ()


def test_an_archive_that_refuses_segmentations_gets_the_report_and_the_refusal_is_shown(
    node_and: Callable[..., Node],
) -> None:
    node = node_and(Manners(commitment="same"), refuse={SegmentationStorage})
    node.run()
    assert node.states() == ["given_up", "confirmed"]
    assert "the peer does not take Segmentation Storage" in node.why()


def test_an_archive_that_takes_implicit_only(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(find="image"), implicit_only=True)
    node.run()
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")


def test_an_archive_that_is_full_and_recovers(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="same"), answer=0xA700)
    node.run()
    assert node.states() == ["due", "due"]
    assert "0xA700: out of resources" in node.why()
    node.archive.answer = 0x0000
    node.run(seconds_later=30)
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")


def test_an_archive_that_breaks_off_in_the_middle(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="same", breaks_off_at=2))
    node.run()
    assert node.states() == ["confirmed", "due"]
    assert "broke the association off" in node.why()
    # The second was never whole there: no C-STORE of it was seen.
    assert list(node.archive.received) == [node.results[0].SOPInstanceUID]
    node.run(seconds_later=30)
    assert (node.states(), node.job_state()) == (["confirmed", "confirmed"], "done")


def test_a_report_on_our_association_is_answered_before_we_release(
    node_and: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    send_reply, report = DIMSEServiceProvider.send_msg, Association.send_n_event_report
    statuses: list[int | None] = []

    def send_late(provider: Any, primitive: Any, context_id: int) -> None:
        # A busy machine: the reply is ready, and the thread that releases runs first.
        if isinstance(primitive, N_EVENT_REPORT) and primitive.is_valid_response:
            time.sleep(0.5)
        send_reply(provider, primitive, context_id)

    def note_status(association: Any, *arguments: Any, **options: Any) -> Any:
        answer = report(association, *arguments, **options)
        statuses.append(getattr(answer[0], "Status", None))
        return answer

    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", send_late)
    monkeypatch.setattr(Association, "send_n_event_report", note_status)
    node = node_and(Manners(commitment="same"))
    node.run()
    assert node.states() == ["confirmed", "confirmed"]
    assert statuses
    assert set(statuses) == {0x0000}


def test_a_stale_refusal_changes_nothing_and_a_stale_promise_counts(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(commitment="never"))
    for _ in range(2):
        node.run("commitment", seconds_later=61)
    first, second = node.archive.transactions
    seg, sr = (SOPReference(result.SOPClassUID, result.SOPInstanceUID) for result in node.results)
    assert node.ledger.confirmations.report(CommitmentReport(first, (sr,), ((seg, 0x0112),)), node.clock)
    node.run("commitment")
    assert node.states() == ["sent", "confirmed"]
    assert node.ledger.confirmations.report(CommitmentReport(second, (seg,)), node.clock)
    node.run("commitment")
    assert node.states() == ["confirmed", "confirmed"]
    assert not node.ledger.confirmations.report(CommitmentReport("2.25.4", (seg,)), node.clock)


def test_an_index_that_is_minutes_behind_is_no_loss(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(find="image", lists_late=8))
    for _ in range(10):
        node.run(seconds_later=60, index_wait_s=600)
    assert node.states() == ["confirmed", "confirmed"]
    assert len(node.archive.received) == 2


def test_what_an_archive_files_elsewhere_is_believed_with_a_remark(node_and: Callable[..., Node]) -> None:
    node = node_and(Manners(find="image", lists_late=10_000), answer=0xB000)
    node.run()
    node.run(seconds_later=3600)
    assert (node.states(), node.job_state()) == (["sent", "sent"], "done")
    assert len(node.archive.received) == 2
    assert "0xB000: stored, with coercion: the archive changed some of its elements" in node.why()
