"""What destinations accept is learned over real associations, remembered, refreshed, and followed by what goes there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicomnode import flow
from dicomnode.commands.doctor import examine
from dicomnode.commands.story import story
from dicomnode.compute import Compute
from dicomnode.delivery.learn import learn_due, settle_config
from dicomnode.ledger.shown import plain
from dicomnode.network.result_classes import RESULT_CLASSES, classes_of
from dicomnode.records import Conclusion
from dicomnode.settings.config import Config, parse_config
from dicomnode.simulator.archive import Archive
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from tests.factories.ledger import STUDY, LedgerStory, new_ledger
from tests.factories.outbox import freeze_results


class Node:
    """A node with one destination; the clock is set by hand."""

    def __init__(self, folder: Path, archive: Archive) -> None:
        self.folder, self.archive, self.clock = folder, archive, 100.0
        folder.mkdir(parents=True)
        self.ledger = new_ledger(folder)
        self.layout = SpoolLayout(folder / "spool")

    def config(self, **settings: Any) -> Config:
        pacs = {
            "name": "pacs",
            "ae_title": self.archive.ae_title,
            "host": "127.0.0.1",
            "port": self.archive.port,
        }
        storage = {"root": str(self.folder), "minimum_free_mb": 0}
        return parse_config(
            {
                "storage": storage,
                "destinations": [pacs | settings],
                "delivery": {"timeout_s": 5, "confirm_first_s": 0},
            }
        )

    def place(self) -> flow.Workplace:
        return flow.Workplace(
            self.config(), self.ledger, self.layout, cast("Compute", _Open()), "work@here", lambda: self.clock
        )

    def learn(self, seconds_later: float = 0.0, **settings: Any) -> int:
        self.clock += seconds_later
        return learn_due(self.ledger, self.config(**settings), lambda: self.clock)

    def kinds(self, **settings: Any) -> tuple[str, ...]:
        config, _ = settle_config(self.config(**settings), self.ledger)
        return config.destinations[0].form.kinds

    def remarks(self) -> str:
        return "\n".join(settle_config(self.config(), self.ledger)[1].get("pacs", ()))

    def answer(self, classes: dict[str, str]) -> None:
        """Finish the study's job as the worker would, with these results."""
        job = self.ledger.jobs.claim("work:1", self.clock, 60) or LedgerStory(self.ledger).running()
        config, remarks = settle_config(self.config(), self.ledger)
        destinations = {one.name: one.form.kinds for one in config.destinations}
        files = freeze_results(self.layout, STUDY, 1, classes)
        self.ledger.jobs.finish(
            job.id,
            "work:1",
            Conclusion(Outcome.LESIONS, "2 lesions", files, destinations, {"destinations": remarks}),
            self.clock,
        )

    def run(self, seconds_later: float = 0.0) -> None:
        self.clock += seconds_later
        flow.learn_destinations(self.place())
        flow.deliver_results(self.place())
        flow.confirm_results(self.place())

    def why(self) -> str:
        return "\n".join(story(self.ledger.history.of_study(STUDY)))

    def states(self) -> list[str]:
        return [one["state"] for one in plain(self.ledger.history.of_study(STUDY))["deliveries"]]


class _Open:
    closed = False


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "archive")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def node(tmp_path: Path, archive: Archive) -> Iterator[Node]:
    made = Node(tmp_path / "node", archive)
    yield made
    made.ledger.close()


def restart(archive: Archive, **changes: Any) -> None:
    archive.stop()
    for name, value in changes.items():
        setattr(archive, name, value)
    archive.start()


@pytest.mark.parametrize(
    ("changes", "kinds", "words"),
    [
        ({}, ("seg", "sr"), ""),
        (
            {"refuse": frozenset({SegmentationStorage})},
            ("pictures", "sr"),
            "does not accept Segmentation Storage",
        ),
        (
            {"refuse": frozenset({Comprehensive3DSRStorage})},
            ("seg", "sr.comprehensive"),
            "the report goes there as Comprehensive SR Storage",
        ),
        (
            {"refuse": frozenset({Comprehensive3DSRStorage, ComprehensiveSRStorage})},
            ("seg", "sr.enhanced"),
            "as Enhanced SR Storage",
        ),
        ({"implicit_only": True}, ("seg", "sr"), "accepts Implicit VR Little Endian only"),
        ({"refuse": frozenset(RESULT_CLASSES)}, ("seg", "sr"), "nor what could go there instead"),
    ],
    ids=["all", "no SEG", "no 3D SR", "Enhanced SR only", "Implicit only", "nothing"],
)
def test_what_is_accepted_is_learned_without_sending_anything(
    node: Node, archive: Archive, changes: dict[str, Any], kinds: tuple[str, ...], words: str
) -> None:
    restart(archive, **changes)
    assert node.learn() == 1

    assert node.kinds() == kinds
    assert words in node.remarks()
    assert bool(node.remarks()) == bool(words)
    offer = node.ledger.offers.known("pacs", node.config().destinations[0].address)
    assert offer is not None
    assert offer.learned_at == 100.0
    syntaxes = (
        (ImplicitVRLittleEndian,)
        if archive.implicit_only
        else (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    )
    assert dict(offer.accepted) == {uid: syntaxes for uid in RESULT_CLASSES if uid not in archive.refuse}
    assert archive.received == ()


def test_it_is_asked_anew_now_and_then_so_an_upgrade_is_noticed(node: Node, archive: Archive) -> None:
    restart(archive, refuse=frozenset({SegmentationStorage}))
    assert (node.learn(), node.kinds()) == (1, ("pictures", "sr"))
    restart(archive, refuse=frozenset())
    assert (node.learn(3599), node.kinds()) == (0, ("pictures", "sr"))
    assert (node.learn(1), node.kinds(), node.remarks()) == (1, ("seg", "sr"), "")


def test_one_that_is_away_is_asked_every_minute_and_what_it_said_holds(node: Node, archive: Archive) -> None:
    restart(archive, refuse=frozenset({SegmentationStorage}))
    archive.stop()
    assert (node.learn(), node.kinds(), "not known yet" in node.remarks()) == (1, ("seg", "sr"), True)
    assert node.learn(59) == 0
    archive.start()
    assert (node.learn(1), node.kinds()) == (1, ("pictures", "sr"))
    archive.stop()
    assert (node.learn(3600), node.kinds()) == (1, ("pictures", "sr"))
    assert node.learn(60) == 1


def test_what_another_address_said_is_not_believed(node: Node, archive: Archive) -> None:
    restart(archive, refuse=frozenset({SegmentationStorage}))
    node.learn()
    archive.stop()
    assert node.kinds(host="localhost") == ("seg", "sr")
    assert (node.learn(host="localhost"), node.kinds(host="localhost"), node.kinds()) == (
        1,
        ("seg", "sr"),
        ("seg", "sr"),
    )


def test_the_configuration_wins_over_what_was_learned(node: Node, archive: Archive) -> None:
    restart(archive, refuse=frozenset({SegmentationStorage, Comprehensive3DSRStorage}))
    node.learn()
    assert node.kinds(objects=["seg", "sr"], report="comprehensive-3d") == ("seg", "sr")
    assert node.kinds(objects=["sr"], report="enhanced") == ("sr.enhanced",)


def test_the_doctor_tells_the_node_what_it_saw(node: Node, archive: Archive) -> None:
    restart(archive, refuse=frozenset({SegmentationStorage}))
    [check, _] = [one for one in examine(node.config()) if one.name == "destination pacs"]
    assert (check.level, node.kinds()) == ("warning", ("pictures", "sr"))
    assert "gets pictures, sr: it does not accept Segmentation Storage: Multi-frame True Color" in check.seen
    restart(archive, refuse=frozenset())
    [check, _] = [one for one in examine(node.config()) if one.name == "destination pacs"]
    assert (check.level, check.seen, node.kinds()) == (
        "ok",
        "ARCHIVE answers C-ECHO and gets seg, sr",
        ("seg", "sr"),
    )


def test_a_study_that_was_answered_before_the_archive_was_heard_is_made_anew_for_it(
    node: Node, archive: Archive
) -> None:
    """The archive was down since the node was set up; when it comes up it turns out not to take segmentations."""
    restart(archive, refuse=frozenset({SegmentationStorage}))
    archive.stop()
    node.run()
    node.answer({"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage})
    node.run()
    assert node.states() == ["due", "due"]
    archive.start()
    # The delivery comes first: what is refused has the archive asked in the next round.
    node.clock += 59
    flow.deliver_results(node.place())
    flow.confirm_results(node.place())
    assert node.states() == ["given_up", "sent"]
    node.run()
    assert node.states() == ["withdrawn", "sent"]
    assert (
        "Revision 1: ready, lesions (0 tries): a destination that gave up on it accepts other objects"
        in node.why()
    )

    node.answer({"sr": Comprehensive3DSRStorage, "pictures": MultiFrameTrueColorSecondaryCaptureImageStorage})
    node.run()
    assert node.states() == ["withdrawn", "sent", "sent", "sent"]
    assert "to pacs: it does not accept Segmentation Storage: Multi-frame True Color" in node.why()
    assert str(plain(node.ledger.history.of_study(STUDY))["jobs"][-1]["state"]) == "done"
    node.run(3600)
    assert len(node.states()) == 4


def test_a_class_that_is_accepted_and_then_refused_by_status_is_learned_for_a_day(
    node: Node, archive: Archive
) -> None:
    archive.manners.refuses_later = frozenset({SegmentationStorage})
    node.run()
    assert node.kinds() == ("seg", "sr")
    node.answer({"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage})
    flow.deliver_results(node.place())
    flow.confirm_results(node.place())
    assert node.states() == ["given_up", "sent"]
    assert node.kinds() == ("pictures", "sr")
    # The study is answered anew with what goes there, and nothing is sent twice.
    node.run(10)
    assert node.states() == ["withdrawn", "sent"]
    node.answer({"sr": Comprehensive3DSRStorage, "pictures": MultiFrameTrueColorSecondaryCaptureImageStorage})
    node.run()
    assert node.states() == ["withdrawn", "sent", "sent", "sent"]
    assert "seg to pacs: withdrawn" in node.why()
    assert "to pacs: it does not accept Segmentation Storage" in node.why()
    # The negotiation says the same every hour, which is not believed until a day is over.
    assert (node.learn(22 * 3600), node.kinds()) == (1, ("pictures", "sr"))
    assert (node.learn(2 * 3600), node.kinds()) == (1, ("seg", "sr"))


def test_one_that_refuses_every_class_by_status_is_given_up_on_after_a_few_answers(
    node: Node, archive: Archive
) -> None:
    archive.manners.refuses_later = frozenset(RESULT_CLASSES)
    node.run()
    answers, state = 0, "ready"
    while state == "ready":
        config, _ = settle_config(node.config(), node.ledger)
        form = config.destinations[0].form
        node.answer({kind: classes_of(form)[kind.split(".")[0]] for kind in form.kinds})  # type: ignore[index]
        for _ in range(3):
            node.run(10)
        answers += 1
        assert answers < 10
        state = str(plain(node.ledger.history.of_study(STUDY))["jobs"][-1]["state"])
    assert answers > 1
    assert "nor what could go there instead" in node.why()


def test_the_doctor_lets_a_class_that_was_refused_by_status_be_tried_again(
    node: Node, archive: Archive
) -> None:
    node.clock = time.time()
    node.learn()
    node.ledger.offers.refuse("pacs", SegmentationStorage, node.clock)
    assert node.kinds() == ("pictures", "sr")
    list(examine(node.config()))
    assert node.kinds() == ("seg", "sr")


def test_another_refusal_says_nothing_of_the_class(node: Node, archive: Archive) -> None:
    node.run()
    node.answer({"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage})
    archive.answer = 0xA900
    node.run()
    assert node.states() == ["given_up", "given_up"]
    assert node.kinds() == ("seg", "sr")


def test_what_nobody_takes_is_given_up_once_and_shown(node: Node, archive: Archive) -> None:
    restart(archive, refuse=frozenset(RESULT_CLASSES))
    node.run()
    node.answer({"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage})
    for _ in range(3):
        node.run(3600)
    assert node.states() == ["given_up", "given_up"]
    why = node.why()
    assert "to pacs: it does not accept Segmentation Storage, nor what could go there instead" in why
    assert (
        "seg to pacs: given_up (1 try) the peer takes none of the SOP classes and transfer syntaxes of these objects"
        in why
    )
    assert "replayed" not in why
