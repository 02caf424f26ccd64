"""Jobs: opened by content, superseded by new content, claimed with a lease, finished once."""

from __future__ import annotations

import pytest

from dicomnode.errors import LeaseLost, NodeError, StateError
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.records import Conclusion
from dicomnode.states import DeliveryState, JobState, Outcome
from tests.factories.ledger import LESION, STUDY, LedgerStory, header, received, release_owner, result


def test_a_new_study_opens_one_waiting_job_at_revision_1(story: LedgerStory) -> None:
    story.receive(1, 2, 3)
    story.index()
    (job,) = story.ledger.jobs.waiting()
    assert (job.StudyInstanceUID, job.revision, job.state, job.attempts) == (STUDY, 1, JobState.WAITING, 0)
    assert story.happenings() == ["opened"]


def test_more_content_while_waiting_changes_no_revision(story: LedgerStory) -> None:
    first = story.waiting(1)
    again = story.waiting(2)
    assert again == first


@pytest.mark.parametrize(
    "state", [JobState.READY, JobState.RUNNING, JobState.ENCODED, JobState.DONE, JobState.FAILED]
)
def test_new_content_after_waiting_supersedes(story: LedgerStory, state: JobState) -> None:
    bring_to(story, state)
    story.receive(99, at=50.0)
    story.index(51.0)
    history = plain(story.ledger.history.of_study(STUDY))
    assert [(job["revision"], job["state"]) for job in history["jobs"]] == [(1, "superseded"), (2, "waiting")]
    assert [job.revision for job in story.ledger.jobs.waiting()] == [2]
    (superseded,) = [event for event in history["events"] if event["event"] == "superseded"]
    assert superseded["detail"]["was"] == state.value


def test_superseding_withdraws_what_has_not_left(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg", "sr"), "second": ("sr",)})
    first, second = story.ledger.deliveries.claim("d", 41, 60, 2)
    story.ledger.deliveries.record(first.id, DeliveryState.SENT, "0x0000", 42)
    story.ledger.deliveries.record(second.id, DeliveryState.GIVEN_UP, "0x0122", 42)
    story.waiting(99)
    assert story.delivery_states() == ["sent", "withdrawn", "withdrawn"]


def test_a_delivery_under_way_while_superseded_is_withdrawn_when_it_fails(story: LedgerStory) -> None:
    story.encoded()
    failing, arriving = story.ledger.deliveries.claim("d", 41, 60, 2)
    story.waiting(99)
    assert story.delivery_states() == ["sending", "sending"]
    story.ledger.deliveries.record(failing.id, DeliveryState.DUE, "timeout", 42, 47)
    story.ledger.deliveries.record(arriving.id, DeliveryState.SENT, "0x0000", 42)
    assert story.delivery_states() == ["withdrawn", "sent"]


def test_duplicates_conflicts_rereads_and_own_results_supersede_nothing(story: LedgerStory) -> None:
    story.encoded()
    own = received(5)
    own = type(own)(**{**vars(own), "SOPInstanceUID": result("seg").SOPInstanceUID})
    assert story.receive(1) == ["duplicate"]
    assert story.receive(1, content="other bytes") == ["conflict"]
    story.index(51)
    story.ledger.instances.add(own)
    ((own_id, _),) = story.ledger.instances.unindexed(10)
    story.ledger.instances.record_header(own_id, header(5), 52)
    story.ledger.instances.record_header(1, header(1), 53)
    assert [job["revision"] for job in plain(story.ledger.history.of_study(STUDY))["jobs"]] == [1]
    assert story.happenings()[-2:] == ["conflict", "own-result"]
    assert len(story.ledger.instances.of_study(STUDY)) == 2


def test_content_that_does_not_reopen_is_indexed_only(story: LedgerStory) -> None:
    story.encoded()
    story.receive(7)
    ((instance_id, _),) = story.ledger.instances.unindexed(10)
    story.ledger.instances.record_header(instance_id, header(7), 50, reopens=False)
    assert story.newest()["revision"] == 1
    assert len(story.ledger.instances.of_study(STUDY)) == 3


def test_the_oldest_ready_job_is_claimed_by_one_owner_only(story: LedgerStory) -> None:
    story.receive(1)
    story.index(study="2.25.1")
    story.receive(2)
    story.index(study="2.25.2")
    late, early = story.ledger.jobs.waiting()
    story.ledger.jobs.mark_ready(early.id, "quiet", {}, 20)
    story.ledger.jobs.mark_ready(late.id, "quiet", {}, 21)
    claimed = [story.ledger.jobs.claim(owner, 30, 60) for owner in ("a", "b", "c")]
    assert [job and (job.id, job.attempts, job.lease_until) for job in claimed] == [
        (early.id, 1, 90),
        (late.id, 1, 90),
        None,
    ]


def test_an_expired_lease_is_claimed_again_and_the_late_owner_is_told(story: LedgerStory) -> None:
    job = story.running("dead", now=30, lease_s=60)
    assert story.ledger.jobs.claim("next", 90, 60) is None
    again = story.ledger.jobs.claim("next", 90.5, 60)
    assert again is not None
    assert (again.id, again.attempts, again.state) == (job.id, 2, JobState.RUNNING)
    assert not story.ledger.jobs.renew(job.id, "dead", 91, 60)
    with pytest.raises(LeaseLost):
        story.finish(job, owner="dead")
    assert plain(story.ledger.history.of_study(STUDY))["deliveries"] == []
    assert "lease-expired" in story.happenings()


def test_renewing_prolongs(story: LedgerStory) -> None:
    job = story.running("a", now=30, lease_s=60)
    assert story.ledger.jobs.renew(job.id, "a", 80, 60)
    assert story.ledger.jobs.claim("b", 139, 60) is None


def test_a_superseded_worker_may_not_finish_fail_or_release(story: LedgerStory) -> None:
    job = story.running()
    story.waiting(99)
    with pytest.raises(LeaseLost, match="superseded"):
        story.finish(job)
    with pytest.raises(LeaseLost):
        story.ledger.jobs.fail(job.id, "work:1", "x", 50)
    with pytest.raises(LeaseLost):
        story.ledger.jobs.release(job.id, "work:1", "x", 50, 60)
    assert story.newest()["state"] == "waiting"


def test_a_released_job_waits_for_its_time(story: LedgerStory) -> None:
    job = story.running()
    story.ledger.jobs.release(job.id, "work:1", "worker died", 40, 70)
    assert story.ledger.jobs.claim("work:1", 69, 60) is None
    again = story.ledger.jobs.claim("work:1", 70, 60)
    assert again is not None
    assert again.attempts == 2


def test_finishing_makes_results_and_only_the_wanted_deliveries(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg", "sr"), "reports": ("sr",), "nobody": ()})
    job = story.newest()
    assert (job["state"], job["outcome"], job["reason"]) == ("encoded", "lesions", "2 lesions")
    assert job["detail"] == {"evidence": {"slices": 2}, "lesions": [LESION]}
    assert [file["kind"] for file in job["results"]] == ["seg", "sr", "montage"]
    due = story.ledger.deliveries.claim("d", 40, 60, 10)
    assert sorted((delivery.destination, delivery.result.kind) for delivery in due) == [
        ("pacs", "seg"),
        ("pacs", "sr"),
        ("reports", "sr"),
    ]
    assert next(delivery.result for delivery in due if delivery.result.kind == "seg") == result("seg")


def test_a_job_may_not_skip_a_state(story: LedgerStory) -> None:
    job = story.encoded()
    with pytest.raises(StateError):
        story.ledger.jobs.mark_ready(999, "x", {}, 50)
    story.ledger.jobs.close_delivered(50)
    story.ledger.jobs.retry(STUDY, 51, rerun=True)
    with pytest.raises(StateError, match="ready may not become ready"):
        story.ledger.jobs.mark_ready(job.id, "x", {}, 52)


def test_closing_needs_every_delivery_to_have_arrived(story: LedgerStory) -> None:
    story.encoded()
    assert story.ledger.jobs.close_delivered(50) == 0
    first, second = story.ledger.deliveries.claim("d", 50, 60, 10)
    story.ledger.deliveries.record(first.id, DeliveryState.SENT, "0x0000", 51)
    assert story.ledger.jobs.close_delivered(52) == 0
    story.ledger.deliveries.record(second.id, DeliveryState.SENT, "0x0000", 52)
    assert story.ledger.jobs.close_delivered(53) == 1
    assert story.newest()["state"] == "done"
    assert story.happenings()[-3:] == ["sent", "sent", "done"]


def test_a_job_without_destinations_is_done_at_once(story: LedgerStory) -> None:
    story.encoded({})
    assert story.ledger.jobs.close_delivered(50) == 1


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.DONE])
def test_retry_processes_again_from_the_first_attempt(story: LedgerStory, state: JobState) -> None:
    bring_to(story, state)
    job = story.ledger.jobs.retry(STUDY, 60)
    assert (job.state, job.attempts, job.revision) == (JobState.READY, 0, 1)
    claimed = story.ledger.jobs.claim("work:1", 60, 60)
    assert claimed is not None
    story.finish(claimed)
    assert story.delivery_states().count("due") == 2


def test_retry_of_given_up_deliveries_sends_and_does_not_process(story: LedgerStory) -> None:
    story.encoded()
    for delivery in story.ledger.deliveries.claim("d", 41, 60, 10):
        story.ledger.deliveries.record(delivery.id, DeliveryState.GIVEN_UP, "refused", 42)
    job = story.ledger.jobs.retry(STUDY, 60)
    assert job.state is JobState.ENCODED
    due = story.ledger.deliveries.claim("d", 60, 60, 10)
    assert [(delivery.attempts, delivery.first_failed_at) for delivery in due] == [(1, None), (1, None)]


def test_rerun_withdraws_the_undelivered_and_processes_again(story: LedgerStory) -> None:
    story.encoded()
    assert story.ledger.jobs.retry(STUDY, 60, rerun=True).state is JobState.READY
    assert story.delivery_states() == ["withdrawn", "withdrawn"]


def test_retry_says_why_it_cannot(story: LedgerStory) -> None:
    with pytest.raises(NodeError, match="not known"):
        story.ledger.jobs.retry(STUDY, 60)
    story.waiting()
    with pytest.raises(NodeError, match="is waiting"):
        story.ledger.jobs.retry(STUDY, 60)
    job = story.ledger.jobs.waiting()[0]
    story.ledger.jobs.mark_ready(job.id, "quiet", {}, 60)
    story.ledger.jobs.claim("a", 60, 60)
    with pytest.raises(NodeError, match="is running"):
        story.ledger.jobs.retry(STUDY, 61)
    story.ledger.jobs.release(job.id, "a", "worker died", 62, 900)
    assert story.ledger.jobs.retry(STUDY, 63).attempts == 0
    assert story.ledger.jobs.claim("a", 63, 60) is not None


def test_retry_waits_for_a_send_under_way(story: LedgerStory) -> None:
    story.encoded()
    story.ledger.deliveries.claim("d", 41, 60, 1)
    with pytest.raises(NodeError, match="being sent"):
        story.ledger.jobs.retry(STUDY, 60, rerun=True)


def test_what_a_dead_owner_held_goes_back(story: LedgerStory) -> None:
    story.encoded()
    story.ledger.deliveries.claim("work:1/pacs", 41, 600, 10)
    story.receive(50)
    story.index(study="2.25.7")
    story.ledger.jobs.mark_ready(story.ledger.jobs.waiting()[0].id, "quiet", {}, 42)
    story.ledger.jobs.claim("work:1", 43, 600)
    assert release_owner(story.ledger, "other", 50) == 0
    assert release_owner(story.ledger, "work:1", 50) == 3
    assert story.ledger.jobs.claim("work:2", 50, 60) is not None
    assert len(story.ledger.deliveries.claim("work:2", 50, 60, 10)) == 2


def test_an_owner_prefix_is_no_pattern(story: LedgerStory) -> None:
    story.running("work:1")
    assert release_owner(story.ledger, "work_1", 50) == 0
    assert release_owner(story.ledger, "%", 50) == 0


def bring_to(story: LedgerStory, state: JobState) -> None:
    """Take a fresh study to a state."""
    if state is JobState.WAITING:
        story.waiting()
    elif state is JobState.READY:
        story.ready()
    elif state is JobState.RUNNING:
        story.running()
    elif state is JobState.ENCODED:
        story.encoded()
    elif state is JobState.DONE:
        story.encoded({})
        story.ledger.jobs.close_delivered(45)
    else:
        story.ledger.jobs.fail(story.running().id, "work:1", "no memory", 40)


def test_outcome_of_a_failed_job(story: LedgerStory, ledger: Ledger) -> None:
    bring_to(story, JobState.FAILED)
    assert (story.newest()["state"], story.newest()["outcome"]) == ("failed", Outcome.FAILED.value)


def fail(story: LedgerStory, how: str) -> None:
    """End the running job as failed: without a report, or with one that is due, on its way, delivered."""
    job = story.ledger.jobs.claim("work:1", 60, 60)
    assert job is not None
    if how == "no report":
        story.ledger.jobs.fail(job.id, "work:1", "no memory", 61)
        return
    story.ledger.jobs.finish(
        job.id, "work:1", Conclusion(Outcome.FAILED, "no memory", [result("sr")], {"pacs": ("sr",)}, {}), 61
    )
    if how != "due":
        (one,) = story.ledger.deliveries.claim("d", 62, 60, 1)
        if how == "delivered":
            story.ledger.deliveries.record(one.id, DeliveryState.SENT, "0x0000", 63, owner="d")
            story.ledger.jobs.close_delivered(64)


@pytest.mark.parametrize(
    ("how", "deliveries"), [("no report", []), ("due", ["withdrawn"]), ("delivered", ["sent"])]
)
@pytest.mark.parametrize("content", ["", "other bytes"])
def test_a_study_that_failed_and_is_sent_again_waits_for_a_new_try(
    story: LedgerStory, how: str, deliveries: list[str], content: str
) -> None:
    story.ready(1, 2)
    fail(story, how)

    story.receive(1, at=100.0, content=content)
    story.receive(2, at=104.0, content=content)
    story.index(104.0)

    (job,) = story.ledger.jobs.waiting()
    assert (job.revision, job.attempts, job.reason, story.newest()["outcome"]) == (
        1,
        0,
        "sent again after it failed",
        None,
    )
    # The quiet time counts from the last of them, and one resend is one new try.
    assert story.ledger.instances.last_received_at(STUDY) == 104.0
    assert story.happenings().count("sent-again") == 1
    assert story.delivery_states() == deliveries


def test_a_failure_report_on_its_way_is_not_overtaken(story: LedgerStory) -> None:
    story.ready(1, 2)
    fail(story, "being sent")
    story.receive(1, at=100.0)
    assert (story.newest()["state"], story.delivery_states()) == ("encoded", ["sending"])


def test_a_study_that_comes_back_at_every_failure_is_not_tried_for_ever(story: LedgerStory) -> None:
    story.ready(1, 2)
    for turn in range(5):
        fail(story, "no report")
        story.receive(1, 2, at=100.0 + turn)
        if not story.ledger.jobs.waiting():
            break
        story.ledger.jobs.mark_ready(story.ledger.jobs.waiting()[0].id, "quiet", {}, 55)
    assert (turn, story.newest()["state"]) == (3, "failed")
    # Somebody who looked at it begins afresh.
    story.ledger.jobs.retry(STUDY, 59)
    fail(story, "no report")
    story.receive(1, at=110.0)
    assert story.newest()["state"] == "waiting"


@pytest.mark.parametrize(
    "state", [JobState.WAITING, JobState.READY, JobState.RUNNING, JobState.ENCODED, JobState.DONE]
)
def test_a_study_that_did_not_fail_does_not_care_for_being_sent_again(
    story: LedgerStory, state: JobState
) -> None:
    bring_to(story, state)
    before = story.ledger.instances.last_received_at(STUDY)
    story.receive(1, at=100.0)
    story.index(100.0)
    assert (story.newest()["state"], story.ledger.instances.last_received_at(STUDY)) == (state.value, before)
    assert "sent-again" not in story.happenings()


@pytest.mark.parametrize(
    ("roles", "counted"), [((), (0, False)), (("flair",), (1, False)), (("t1", "flair"), (0, True))]
)
def test_what_a_study_is_answered_from_is_a_habit_of_its_sender(
    story: LedgerStory, roles: tuple[str, ...], counted: tuple[int, bool]
) -> None:
    job = story.waiting(1, 2)
    story.ledger.jobs.mark_ready(job.id, "", {"roles": dict.fromkeys(roles, "2.25.1")}, 20.0)
    habits = story.ledger.senders.habits_of_study(STUDY, 120.0)
    assert (habits.studies_with_one, habits.has_sent_both) == counted


def test_a_study_that_is_answered_anew_from_one_image_alone_is_counted_once(story: LedgerStory) -> None:
    for turn in range(4):
        job = story.waiting(turn + 1)
        story.ledger.jobs.mark_ready(job.id, "", {"roles": {"flair": "2.25.1"}}, 20.0 + turn)
    assert job.revision == 4
    assert story.ledger.senders.habits_of_study(STUDY, 120.0).studies_with_one == 1

    last = story.waiting(5)
    story.ledger.jobs.mark_ready(last.id, "", {"roles": {"t1": "2.25.2", "flair": "2.25.1"}}, 30.0)
    habits = story.ledger.senders.habits_of_study(STUDY, 120.0)
    assert (habits.studies_with_one, habits.has_sent_both) == (1, True)
