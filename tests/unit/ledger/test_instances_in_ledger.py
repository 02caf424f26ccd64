"""Instances: listed once, conflicts kept beside, headers read and read again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from types import MappingProxyType

import pytest

from dicomnode.errors import NodeError, StateError
from dicomnode.ledger.encoding import header_from_json, header_to_json
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.records import InstanceHeader
from tests.factories.ledger import STUDY, LedgerStory, header, received


def test_the_same_bytes_are_listed_once_and_other_bytes_beside_them(ledger: Ledger) -> None:
    first, other, third = received(1), received(1, "other"), received(1, "third")
    assert [ledger.instances.add(one) for one in (first, first, other, other, first, third)] == [
        "new",
        "duplicate",
        "conflict",
        "duplicate",
        "duplicate",
        "conflict",
    ]
    assert set(ledger.instances.paths_below("incoming")) == {first.path, other.path, third.path}


def test_the_paths_below_a_folder_are_no_other_folders(ledger: Ledger) -> None:
    within = [f"incoming/3/{number * 7919 % 101:03d}-ab.dcm" for number in range(7)]
    beside = ["incoming/2/x.dcm", "incoming/30/x.dcm", "incoming/3", "incoming/30", "incoming/4/x.dcm"]
    for number, path in enumerate([*beside, *within]):
        ledger.instances.add(replace(received(number), path=path))

    assert sorted(ledger.instances.paths_below("incoming/3")) == sorted(within)
    assert list(ledger.instances.paths_below("incoming/5")) == []
    assert ledger.instances.count_below("incoming/3") == len(within)
    assert ledger.instances.count_below("incoming/5") == 0


def test_unindexed_instances_come_back_as_they_were_oldest_first(ledger: Ledger) -> None:
    sent = [received(number, at=float(number)) for number in (3, 1, 2)]
    for instance in sent:
        ledger.instances.add(instance)
    assert [instance for _, instance in ledger.instances.unindexed(2)] == sent[:2]
    first_id, _ = ledger.instances.unindexed(2)[0]
    ledger.instances.record_header(first_id, header(3), 20)
    assert [instance for _, instance in ledger.instances.unindexed(10)] == sent[1:]


def test_threads_and_two_ledgers_on_one_file_list_each_instance_exactly_once(
    open_ledger: Callable[[], Ledger],
) -> None:
    ledgers = [open_ledger(), open_ledger()]
    outcomes: list[str] = []

    def add(ledger: Ledger) -> None:
        outcomes.extend(ledger.instances.add(received(number)) for number in range(40))

    threads = [threading.Thread(target=add, args=(ledger,)) for ledger in ledgers for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("new"), outcomes.count("duplicate")) == (40, 280)
    assert len(ledgers[0].instances.unindexed(1000)) == 40


def test_concurrent_conflicts_have_one_first(open_ledger: Callable[[], Ledger]) -> None:
    ledgers = [open_ledger(), open_ledger()]
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def add(ledger: Ledger, content: str) -> None:
        barrier.wait()
        outcomes.append(ledger.instances.add(received(1, content)))

    threads = [threading.Thread(target=add, args=(ledgers[number % 2], str(number))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 7 + ["new"]


def test_a_header_comes_back_equal(story: LedgerStory) -> None:
    story.receive(1)
    story.index()
    (indexed,) = story.ledger.instances.of_study(STUDY)
    assert indexed.header == header(1)
    assert (indexed.path, indexed.received_at, indexed.TransferSyntaxUID) == (
        received(1).path,
        10.0,
        received(1).TransferSyntaxUID,
    )


def test_every_field_of_a_header_survives_with_its_type() -> None:
    """Every field away from its default, by its annotation, so that a new field is tested without touching this test."""
    samples = {
        "str": "x",
        "int": 3,
        "int | None": 4,
        "float | None": 2.5,
        "bool": True,
        "tuple[float, ...]": (0.5, 1.5),
        "tuple[str, ...]": ("A", "B"),
        "tuple[tuple[float, ...], ...]": ((1.0, 2.0), (3.0,)),
        "Mapping[str, Any]": {"mosaic": [4, 4], "deep": {"a": None}},
    }
    full = InstanceHeader(**{field.name: samples[str(field.type)] for field in fields(InstanceHeader)})
    assert header_from_json(header_to_json(full)) == full
    assert header_from_json(header_to_json(replace(full, extra=MappingProxyType({"a": 1})))).extra == {"a": 1}


def test_a_header_of_another_version_is_read_for_what_is_known() -> None:
    stored = header_to_json(header(1)).replace('"Modality":"MR"', '"Unheard":1')
    assert header_from_json(stored) == replace(header(1), Modality="")


def test_reading_again_refreshes_the_header_and_nothing_else(story: LedgerStory) -> None:
    story.encoded()
    before = plain(story.ledger.history.of_study(STUDY))
    story.ledger.instances.record_header(1, replace(header(1), SeriesDescription="t1 axial"), 60)
    after = plain(story.ledger.history.of_study(STUDY))
    assert story.ledger.instances.of_study(STUDY)[0].header.SeriesDescription == "t1 axial"
    assert {**after, "series": []} == {**before, "series": []}


def test_of_conflicting_instances_the_first_is_used(story: LedgerStory) -> None:
    story.receive(1, 2)
    story.receive(1, content="other", at=12)
    story.index()
    assert [one.path for one in story.ledger.instances.of_study(STUDY)] == [
        received(1).path,
        received(2).path,
    ]
    assert story.happenings() == ["opened", "conflict"]


def test_when_the_first_cannot_be_read_the_next_one_is_used(story: LedgerStory) -> None:
    story.receive(1)
    ((first_id, _),) = story.ledger.instances.unindexed(1)
    story.ledger.instances.record_unreadable(first_id, "truncated pixel data", 11)
    story.receive(1, content="whole", at=12)
    story.index()
    assert [one.path for one in story.ledger.instances.of_study(STUDY)] == [received(1, "whole").path]
    assert len(story.ledger.jobs.waiting()) == 1


def test_the_same_uid_in_two_studies_serves_both(story: LedgerStory) -> None:
    story.receive(1)
    story.index(study="2.25.1")
    story.receive(1, content="moved", at=20)
    story.index(study="2.25.2")
    assert [len(story.ledger.instances.of_study(uid)) for uid in ("2.25.1", "2.25.2")] == [1, 1]
    assert len(story.ledger.jobs.waiting()) == 2


def test_last_received_is_the_newest_instance_whatever_the_order_of_reading(story: LedgerStory) -> None:
    story.receive(1, at=30)
    story.receive(2, at=10)
    story.index()
    assert story.ledger.instances.last_received_at(STUDY) == 30
    assert plain(story.ledger.history.of_study(STUDY))["first_received_at"] == 10
    with pytest.raises(NodeError, match="not known"):
        story.ledger.instances.last_received_at("2.25.404")


def test_an_unreadable_instance_is_set_aside(story: LedgerStory) -> None:
    story.receive(1)
    ((instance_id, _),) = story.ledger.instances.unindexed(1)
    story.ledger.instances.record_unreadable(instance_id, "not DICOM", 11)
    assert story.ledger.instances.unindexed(10) == []
    assert plain(story.ledger.history.health())["instances"]["unreadable"] == 1
    assert plain(story.ledger.history.studies()) == []


def test_a_study_of_unreadable_instances_is_answered_too(story: LedgerStory) -> None:
    story.receive(1, 2)
    for instance_id, _ in story.ledger.instances.unindexed(2):
        story.ledger.instances.record_unreadable(
            instance_id, "truncated: too short", 11, StudyInstanceUID=STUDY
        )
    assert [job.StudyInstanceUID for job in story.ledger.jobs.waiting()] == [STUDY]
    assert story.ledger.instances.of_study(STUDY) == []
    assert [one.path for one in story.ledger.instances.set_aside(STUDY)] == [
        received(1).path,
        received(2).path,
    ]
    history = plain(story.ledger.history.of_study(STUDY))
    assert (history["series"], len(history["unreadable"])) == ([], 2)
    story.receive(1, content="whole", at=12)
    story.index()
    assert [one.path for one in story.ledger.instances.set_aside(STUDY)] == [received(2).path]


def test_an_unreadable_instance_does_not_reopen_a_study(story: LedgerStory) -> None:
    job = story.running()
    story.receive(3)
    ((instance_id, _),) = story.ledger.instances.unindexed(1)
    story.ledger.instances.record_unreadable(instance_id, "truncated: too short", 31, StudyInstanceUID=STUDY)
    assert story.newest()["id"] == job.id
    assert story.newest()["state"] == "running"


def test_an_unknown_instance_is_a_bug(ledger: Ledger) -> None:
    with pytest.raises(StateError, match="instance 9 "):
        ledger.instances.record_header(9, header(1), 1)


def mark_index(story: LedgerStory, mark: str, now: float) -> None:
    """Read what is unread as the header of a patient with this mark."""
    for instance_id, instance in story.ledger.instances.unindexed(1000):
        number = int(instance.SOPInstanceUID.rsplit(".", 1)[1])
        story.ledger.instances.record_header(instance_id, replace(header(number), identity_mark=mark), now)


def used_marks(story: LedgerStory) -> list[str]:
    return [instance.header.identity_mark for instance in story.ledger.instances.of_study(STUDY)]


def test_a_correction_before_the_answer_is_what_counts(story: LedgerStory) -> None:
    story.receive(1, 2, content="old", at=10)
    mark_index(story, "aaaaaaaa", 11)
    assert story.receive(1, 2, content="corrected", at=20) == ["conflict", "conflict"]
    mark_index(story, "bbbbbbbb", 21)
    assert used_marks(story) == ["bbbbbbbb", "bbbbbbbb"]
    assert [job["revision"] for job in plain(story.ledger.history.of_study(STUDY))["jobs"]] == [1]
    assert story.ledger.instances.last_received_at(STUDY) == 20
    (series,) = plain(story.ledger.history.of_study(STUDY))["series"]
    assert (series["instances"], series["conflicts"]) == (2, 2)


def test_a_correction_after_the_answer_has_the_study_answered_anew(story: LedgerStory) -> None:
    story.encoded()
    assert story.receive(1, content="corrected", at=60) == ["conflict"]
    mark_index(story, "bbbbbbbb", 61)
    jobs = plain(story.ledger.history.of_study(STUDY))["jobs"]
    assert [(job["revision"], job["state"]) for job in jobs] == [(1, "superseded"), (2, "waiting")]
    assert "corrected" in story.happenings()
    assert sorted(used_marks(story)) == ["", "bbbbbbbb"]


def test_other_bytes_for_the_same_patient_change_nothing(story: LedgerStory) -> None:
    story.receive(1, 2, content="first", at=10)
    mark_index(story, "aaaaaaaa", 11)
    paths = [instance.path for instance in story.ledger.instances.of_study(STUDY)]
    story.receive(1, 2, content="second", at=20)
    mark_index(story, "aaaaaaaa", 21)
    assert [instance.path for instance in story.ledger.instances.of_study(STUDY)] == paths


def test_a_correction_that_is_taken_back_by_sending_the_first_bytes_again_counts(story: LedgerStory) -> None:
    story.receive(1, content="old", at=10)
    mark_index(story, "aaaaaaaa", 11)
    story.receive(1, content="corrected", at=20)
    mark_index(story, "bbbbbbbb", 21)
    assert story.receive(1, content="old", at=30) == ["duplicate"]
    mark_index(story, "aaaaaaaa", 31)
    assert used_marks(story) == ["aaaaaaaa"]
    # The same once more is no news.
    assert story.receive(1, content="old", at=40) == ["duplicate"]
    assert story.ledger.instances.unindexed(10) == []


def test_one_row_that_the_database_refuses_fails_only_its_own_caller(story: LedgerStory) -> None:
    broken = replace(received(3), SOPInstanceUID="1.2.\udc80")
    outcomes = story.ledger.instances.add_all([received(1), broken, received(2)])
    assert outcomes[::2] == ["new", "new"]
    assert isinstance(outcomes[1], Exception)
    with pytest.raises(Exception, match=r"surrogates|encode|UTF"):
        story.ledger.instances.add(broken)
    assert len(story.ledger.instances.unindexed(10)) == 2
