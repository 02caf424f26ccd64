"""What is shown: the story of one study, one line per study, counts; and what may go."""

from __future__ import annotations

import json

import pytest

from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.records import Finding
from dicomnode.states import DeliveryState
from tests.factories.ledger import STUDY, LedgerStory, header, received


def test_the_story_of_a_study_from_reception_to_arrival(story: LedgerStory) -> None:
    ledger = story.ledger
    for number, at, sender in ((1, 10, "MR1"), (2, 12, "MR1"), (3, 13, "MR2"), (4, 300, "MR1")):
        ledger.instances.add(received(number, at=float(at), calling_ae=sender))
        ((instance_id, _),) = ledger.instances.unindexed(1)
        ledger.instances.record_header(instance_id, header(number, series=2 if number == 3 else 1), 301)
    story.receive(1, content="other", at=302)
    story.index()
    (job,) = ledger.jobs.waiting()
    ledger.jobs.mark_ready(
        job.id, "complete by evidence", {"findings": (Finding("gap", "info", "none"),)}, 310
    )
    claimed = ledger.jobs.claim("work:1", 311, 60)
    assert claimed is not None
    story.finish(claimed, now=312)
    for delivery in ledger.deliveries.claim("d", 313, 60, 10):
        ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000 Success", 314)
    ledger.jobs.close_delivered(315)

    history = plain(ledger.history.of_study(STUDY))
    assert json.loads(json.dumps(history)) == history
    assert [
        (one["calling_ae"], one["peer_host"], one["since"], one["until"], one["instances"])
        for one in history["received"]
    ] == [
        ("MR1", "10.0.0.7", 10, 12, 2),
        ("MR2", "10.0.0.7", 13, 13, 1),
        ("MR1", "10.0.0.7", 300, 300, 1),
        ("SCANNER", "10.0.0.7", 302, 302, 1),
    ]
    assert [(one["SeriesInstanceUID"], one["instances"], one["conflicts"]) for one in history["series"]] == [
        (f"{STUDY}.1", 3, 1),
        (f"{STUDY}.2", 1, 0),
    ]
    assert history["series"][0]["size_bytes"] == 1001 + 1002 + 1004 + 1001
    assert [one["SOPInstanceUID"] for one in history["conflicts"]] == [received(1).SOPInstanceUID]
    assert [event["event"] for event in history["events"]] == [
        "opened",
        "conflict",
        "ready",
        "claimed",
        "encoded",
        "sent",
        "sent",
        "done",
    ]
    assert history["events"][2]["detail"]["evidence"]["findings"][0]["code"] == "gap"
    assert [
        (one["kind"], one["destination"], one["state"], one["last_status"]) for one in history["deliveries"]
    ] == [
        ("seg", "pacs", "sent", "0x0000 Success"),
        ("sr", "pacs", "sent", "0x0000 Success"),
    ]
    assert (history["first_received_at"], history["last_received_at"]) == (10, 302)


def test_an_unknown_study_has_no_story(ledger: Ledger) -> None:
    assert ledger.history.of_study("2.25.404") is None


def test_an_instance_of_no_study_is_shown_under_its_own_name_and_under_nobody_elses(
    story: LedgerStory,
) -> None:
    story.receive(1)
    story.index()
    for number, study in ((7, ""), (8, STUDY)):
        story.ledger.instances.add(received(number, at=12.0))
        ((instance_id, _),) = story.ledger.instances.unindexed(1)
        story.ledger.instances.record_unreadable(instance_id, "not-dicom: bytes", 20, StudyInstanceUID=study)
    history = story.ledger.history.of_study(STUDY)
    assert history is not None
    assert [(line.SOPInstanceUID, line.reason) for line in history.unreadable] == [
        (received(8).SOPInstanceUID, "not-dicom: bytes")
    ]
    (stray,) = story.ledger.history.without_study()
    assert (stray.SOPInstanceUID, stray.SOPClassUID, stray.reason) == (
        received(7).SOPInstanceUID,
        received(7).SOPClassUID,
        "not-dicom: bytes",
    )
    assert story.ledger.history.health().without_study == 1
    assert story.ledger.history.instances_ending_in(stray.SOPInstanceUID[-4:]) == (stray,)
    assert story.ledger.history.instances_ending_in(received(8).SOPInstanceUID) == ()


def test_one_line_per_study_the_last_received_first(story: LedgerStory) -> None:
    story.encoded()
    story.receive(50, at=60)
    story.index(study="2.25.2")
    newer, older = plain(story.ledger.history.studies())
    assert (newer["StudyInstanceUID"], newer["instances"], newer["job"]["state"], newer["deliveries"]) == (
        "2.25.2",
        1,
        "waiting",
        {},
    )
    assert (older["StudyInstanceUID"], older["instances"], older["series"]) == (STUDY, 2, 1)
    assert (older["job"]["state"], older["job"]["outcome"], older["deliveries"]) == (
        "encoded",
        "lesions",
        {"due": 2},
    )
    assert plain(story.ledger.history.studies(limit=1)) == [newer]


def test_a_superseded_study_shows_its_newest_job(story: LedgerStory) -> None:
    story.encoded()
    story.waiting(99)
    (line,) = plain(story.ledger.history.studies())
    assert (line["job"]["revision"], line["job"]["state"]) == (2, "waiting")


def test_health_counts_and_dates_what_waits(story: LedgerStory) -> None:
    empty = plain(story.ledger.history.health())
    assert set(empty["jobs"].values()) == set(empty["deliveries"].values()) == {0}
    assert empty["oldest_waiting_since"] is None
    story.encoded()
    story.receive(1, content="other")
    story.receive(50, at=60)
    story.index(now=61, study="2.25.2")
    health = plain(story.ledger.history.health())
    assert health["jobs"] | {"encoded": 0, "waiting": 0} == empty["jobs"]
    assert (
        health["jobs"]["encoded"],
        health["jobs"]["waiting"],
        health["deliveries"]["due"],
        health["conflicts"],
    ) == (1, 1, 2, 1)
    assert (
        health["oldest_waiting_since"],
        health["oldest_ready_since"],
        health["oldest_undelivered_since"],
    ) == (61, None, 40)
    assert (health["studies"], health["instances"]["indexed"], health["destinations"]) == (
        2,
        4,
        {"pacs": {"due": 2}},
    )
    assert json.loads(json.dumps(health)) == health


def test_only_finished_and_delivered_studies_expire(story: LedgerStory) -> None:
    ledger = story.ledger
    story.encoded()
    assert ledger.retention.expired_studies(1000) == []
    first, second = ledger.deliveries.claim("d", 41, 60, 10)
    ledger.deliveries.record(first.id, DeliveryState.SENT, "0x0000", 42)
    ledger.deliveries.record(second.id, DeliveryState.GIVEN_UP, "refused", 42)
    ledger.jobs.close_delivered(43)
    assert ledger.retention.expired_studies(1000) == []
    ledger.jobs.retry(STUDY, 44)
    (again,) = ledger.deliveries.claim("d", 44, 60, 10)
    ledger.deliveries.record(again.id, DeliveryState.SENT, "0x0000", 45)
    ledger.jobs.close_delivered(46)
    assert ledger.retention.expired_studies(46) == []
    assert ledger.retention.expired_studies(47) == [STUDY]


def deliver(story: LedgerStory, now: float = 45) -> None:
    for delivery in story.ledger.deliveries.claim("d", now, 60, 10):
        story.ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000", now)
    story.ledger.jobs.close_delivered(now)


def test_an_expired_study_leaves_nothing_and_may_come_again(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",)})
    removed: list[set[str]] = []
    assert not story.ledger.retention.expire_study(STUDY, 1000, removed.append)
    deliver(story)
    listed = set(story.ledger.instances.paths_below("incoming")) | story.ledger.retention.result_paths()

    assert story.ledger.retention.expire_study(STUDY, 1000, removed.append)

    assert removed == [listed]
    assert len(listed) == 5
    assert not list(story.ledger.instances.paths_below("incoming"))
    assert story.ledger.retention.result_paths() == set()
    assert story.ledger.history.of_study(STUDY) is None
    assert sum(plain(story.ledger.history.health())["deliveries"].values()) == 0
    assert story.waiting().revision == 1


def test_what_is_sent_again_does_not_expire_under_the_senders_hands(story: LedgerStory) -> None:
    story.encoded()
    deliver(story)
    assert story.ledger.retention.expired_studies(1000) == [STUDY]

    assert story.receive(1, at=1000.0) == ["duplicate"]

    assert not story.ledger.retention.expire_study(
        STUDY, 1000, lambda _: pytest.fail("removed what was just acknowledged")
    )
    assert story.ledger.retention.expired_studies(1001) == [STUDY]


def test_a_study_whose_files_cannot_be_removed_keeps_its_rows(story: LedgerStory) -> None:
    story.encoded()
    deliver(story)

    def refuse(_paths: set[str]) -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        story.ledger.retention.expire_study(STUDY, 1000, refuse)
    assert story.ledger.retention.expired_studies(1000) == [STUDY]


def test_old_unreadable_instances_expire(story: LedgerStory) -> None:
    story.receive(1)
    ((instance_id, instance),) = story.ledger.instances.unindexed(1)
    story.ledger.instances.record_unreadable(instance_id, "not DICOM", 20)
    assert story.ledger.retention.expired_unreadable(10) == []
    assert story.ledger.retention.expired_unreadable(11) == [instance.path]
    removed: list[set[str]] = []
    story.receive(1, at=50.0)
    assert not story.ledger.retention.expire_unreadable(instance.path, 11, removed.append)
    assert story.ledger.retention.expire_unreadable(instance.path, 51, removed.append)
    assert removed == [{instance.path}]
    assert not list(story.ledger.instances.paths_below("incoming"))


def test_the_segmentations_of_other_studies_are_named_newest_first(story: LedgerStory) -> None:
    assert story.ledger.history.segmentations("1.2.3", 10) == []
    story.encoded()

    ((study, path),) = story.ledger.history.segmentations("1.2.3", 10)

    assert study == STUDY
    assert path == next(
        item["path"]
        for item in plain(story.ledger.history.of_study(STUDY))["jobs"][0]["results"]
        if item["kind"] == "seg"
    )
    assert story.ledger.history.segmentations(STUDY, 10) == []
