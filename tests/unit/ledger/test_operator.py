"""What an operator may order, and studies by filter."""

from __future__ import annotations

import pytest

from dicomnode.errors import NodeError
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.listing import Cursor, StudyFilter
from dicomnode.states import DeliveryState, JobState, Outcome
from tests.factories.ledger import STUDY, LedgerStory, header, received


def send_all(story: LedgerStory, state: DeliveryState, now: float = 50.0) -> None:
    for delivery in story.ledger.deliveries.claim("work:1", now, 60.0, 9):
        story.ledger.deliveries.record(delivery.id, state, "0x0000", now)


def test_delivering_again_makes_every_result_due_also_what_arrived(
    ledger: Ledger, story: LedgerStory
) -> None:
    story.encoded()
    send_all(story, DeliveryState.SENT)
    ledger.jobs.close_delivered(60.0)

    assert ledger.operator.deliver_again(STUDY, 70.0) == 2
    assert story.delivery_states() == ["due", "due"]
    assert len(ledger.deliveries.claim("work:1", 70.0, 60.0, 9)) == 2
    assert story.happenings()[-1] == "delivered-again"


def test_what_was_given_up_is_due_too(ledger: Ledger, story: LedgerStory) -> None:
    story.encoded()
    send_all(story, DeliveryState.GIVEN_UP)

    assert ledger.operator.deliver_again(STUDY, 70.0) == 2
    assert story.delivery_states() == ["due", "due"]


def test_a_reopened_study_waits_again_and_nothing_old_leaves(ledger: Ledger, story: LedgerStory) -> None:
    story.encoded()

    ledger.operator.reopen(STUDY, 70.0)

    assert (story.newest()["state"], story.newest()["outcome"]) == ("waiting", None)
    assert story.delivery_states() == ["withdrawn", "withdrawn"]
    assert [job.StudyInstanceUID for job in ledger.jobs.waiting()] == [STUDY]


@pytest.mark.parametrize("verb", ["reopen", "deliver_again"])
def test_orders_that_cannot_be(ledger: Ledger, story: LedgerStory, verb: str) -> None:
    with pytest.raises(NodeError, match="not known"):
        getattr(ledger.operator, verb)(STUDY, 1.0)
    story.running()
    with pytest.raises(NodeError, match="is running"):
        getattr(ledger.operator, verb)(STUDY, 40.0)
    assert story.newest()["state"] == "running"


def test_while_a_result_is_being_sent_nothing_is_changed(ledger: Ledger, story: LedgerStory) -> None:
    story.encoded()
    ledger.deliveries.claim("work:1", 50.0, 60.0, 1)

    with pytest.raises(NodeError, match="being sent"):
        ledger.operator.deliver_again(STUDY, 51.0)
    assert sorted(story.delivery_states()) == ["due", "sending"]


def fill(ledger: Ledger, count: int) -> list[str]:
    """Add studies of one image each, two at each time, every third from AE title OTHER; return their UIDs."""
    uids = [f"2.25.{1000 + number}" for number in range(count)]
    for number, uid in enumerate(uids):
        sender = "OTHER" if number % 3 == 0 else "SCANNER"
        ledger.instances.add(received(number, at=100.0 + number // 2, calling_ae=sender))
        ((instance_id, _),) = ledger.instances.unindexed(9)
        ledger.instances.record_header(instance_id, header(number, uid), 200.0)
    return uids


def test_pages_of_studies_hold_each_study_once_whatever_the_page_length(ledger: Ledger) -> None:
    uids = fill(ledger, 9)
    for length in (1, 2, 4, 20):
        listed: list[str] = []
        after = None
        while lines := ledger.listing.page(StudyFilter(), length, after):
            listed += [line.StudyInstanceUID for line in lines]
            after = Cursor(lines[-1].last_received_at, lines[-1].StudyInstanceUID)
        assert listed == list(reversed(uids))


def test_filters_let_through_what_they_name(ledger: Ledger) -> None:
    uids = fill(ledger, 9)
    jobs = {job.StudyInstanceUID: job for job in ledger.jobs.waiting()}
    ledger.jobs.mark_ready(jobs[uids[4]].id, "complete", {}, 300.0)

    def listed(**wanted: object) -> list[str]:
        lines = ledger.listing.page(StudyFilter(**wanted), 99)  # type: ignore[arg-type]
        return sorted(line.StudyInstanceUID for line in lines)

    assert listed(state=JobState.READY) == [uids[4]]
    assert len(listed(state=JobState.WAITING)) == 8
    assert listed(outcome=Outcome.LESIONS) == []
    assert listed(calling_ae="other") == [uids[0], uids[3], uids[6]]
    assert listed(uid_fragment="1007") == [uids[7]]
    assert listed(uid_fragment="%") == [], "no wildcard of SQL"
    assert listed(since=101.0, until=102.0) == [uids[2], uids[3]]
    assert listed(delivery=DeliveryState.DUE) == []


def test_deliveries_are_a_filter(ledger: Ledger, story: LedgerStory) -> None:
    story.encoded()
    send_all(story, DeliveryState.GIVEN_UP)

    for state, count in ((DeliveryState.GIVEN_UP, 1), (DeliveryState.DUE, 0)):
        assert len(ledger.listing.page(StudyFilter(delivery=state), 9)) == count
    assert len(ledger.listing.page(StudyFilter(outcome=Outcome.LESIONS), 9)) == 1
