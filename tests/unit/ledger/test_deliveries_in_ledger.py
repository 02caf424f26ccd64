"""Deliveries: claimed once, given back, recorded, never two senders of one."""

from __future__ import annotations

import pytest

from dicomnode.errors import StateError
from dicomnode.ledger.shown import plain
from dicomnode.states import DeliveryState
from tests.factories.ledger import STUDY, LedgerStory, release_owner


def test_a_delivery_is_claimed_by_one_owner(story: LedgerStory) -> None:
    story.encoded()
    first = story.ledger.deliveries.claim("a", 41, 60, 1)
    second = story.ledger.deliveries.claim("b", 41, 60, 10)
    assert [one.result.kind for one in (*first, *second)] == ["seg", "sr"]
    assert story.ledger.deliveries.claim("c", 41, 60, 10) == []
    assert (first[0].state, first[0].attempts, first[0].StudyInstanceUID) == (DeliveryState.SENDING, 1, STUDY)


def test_a_destination_can_be_claimed_alone(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",), "second": ("seg", "sr")})
    assert story.ledger.deliveries.due_destinations(41) == ["pacs", "second"]
    claimed = story.ledger.deliveries.claim("a", 41, 60, 10, destination="second")
    assert [one.destination for one in claimed] == ["second", "second"]
    assert story.ledger.deliveries.due_destinations(42) == ["pacs"]


def test_a_destination_that_is_being_sent_to_is_left_alone_until_the_lease_runs_out(
    story: LedgerStory,
) -> None:
    story.encoded()
    story.ledger.deliveries.claim("a", 41, 60, 1)
    assert story.ledger.deliveries.due_destinations(101) == []
    assert story.ledger.deliveries.due_destinations(101.5) == ["pacs"]


def test_an_expired_lease_is_due_again_and_the_late_owner_changes_nothing(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",)})
    (delivery,) = story.ledger.deliveries.claim("dead", 41, 60, 10)
    assert story.ledger.deliveries.claim("next", 101, 60, 10) == []
    (again,) = story.ledger.deliveries.claim("next", 101.5, 60, 10)
    assert (again.id, again.attempts) == (delivery.id, 2)
    assert not story.ledger.deliveries.record(delivery.id, DeliveryState.GIVEN_UP, "late", 102, owner="dead")
    assert story.delivery_states() == ["sending"]
    assert story.ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000", 103, owner="next")
    assert story.delivery_states() == ["sent"]


def test_renewing_says_what_is_still_held(story: LedgerStory) -> None:
    story.encoded()
    held = story.ledger.deliveries.claim("a", 41, 60, 10)
    story.ledger.deliveries.record(held[0].id, DeliveryState.SENT, "0x0000", 50)
    assert story.ledger.deliveries.renew("a", 90, 60) == {held[1].id}
    assert story.ledger.deliveries.claim("b", 149, 60, 10) == []


def test_a_delayed_delivery_is_due_at_its_time_and_remembers_its_first_failure(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",)})
    (delivery,) = story.ledger.deliveries.claim("a", 41, 60, 10)
    story.ledger.deliveries.record(delivery.id, DeliveryState.DUE, "no answer", 42, 47)
    assert story.ledger.deliveries.due_destinations(46) == []
    assert story.ledger.deliveries.claim("a", 46, 60, 10) == []
    (again,) = story.ledger.deliveries.claim("a", 47, 60, 10)
    assert (again.attempts, again.first_failed_at, again.last_status) == (2, 42, "no answer")
    story.ledger.deliveries.record(delivery.id, DeliveryState.DUE, "no answer", 48, 58)
    shown = plain(story.ledger.history.of_study(STUDY))["deliveries"][0]
    assert (shown["first_failed_at"], shown["next_attempt_at"], shown["last_status"]) == (42, 58, "no answer")
    assert story.happenings().count("delivery-delayed") == 1


def test_sent_can_be_confirmed_but_not_sent_twice(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",)})
    (delivery,) = story.ledger.deliveries.claim("a", 41, 60, 10)
    story.ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000", 42)
    with pytest.raises(StateError, match="sent may not become sent"):
        story.ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000", 43)
    story.ledger.deliveries.record(delivery.id, DeliveryState.CONFIRMED, "found by C-FIND", 44)
    assert story.delivery_states() == ["confirmed"]
    assert story.ledger.jobs.close_delivered(45) == 1


def test_a_given_up_delivery_keeps_its_job_open_and_is_shown(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",)})
    (delivery,) = story.ledger.deliveries.claim("a", 41, 60, 10)
    story.ledger.deliveries.record(delivery.id, DeliveryState.GIVEN_UP, "0x0122 SOP Class not supported", 42)
    assert story.ledger.jobs.close_delivered(43) == 0
    assert story.ledger.deliveries.claim("a", 1e9, 60, 10) == []
    assert plain(story.ledger.history.health())["destinations"] == {"pacs": {"given_up": 1}}
    assert story.happenings()[-1] == "delivery-given-up"


def test_a_superseded_delivery_with_an_expired_lease_is_withdrawn_not_sent(story: LedgerStory) -> None:
    story.encoded({"pacs": ("seg",)})
    story.ledger.deliveries.claim("dead", 41, 60, 10)
    story.waiting(99)
    assert story.ledger.deliveries.claim("next", 200, 60, 10) == []
    assert story.delivery_states() == ["withdrawn"]


def test_a_superseded_delivery_is_withdrawn_when_its_owner_is_released_or_gives_up(
    story: LedgerStory,
) -> None:
    story.encoded()
    dead, alive = (story.ledger.deliveries.claim(owner, 41, 60, 1)[0] for owner in ("dead", "alive"))
    story.waiting(99)
    release_owner(story.ledger, "dead", 50)
    story.ledger.deliveries.record(alive.id, DeliveryState.GIVEN_UP, "refused", 51)
    assert dead.id != alive.id
    assert story.delivery_states() == ["withdrawn", "withdrawn"]


def test_an_unknown_delivery_is_a_bug(story: LedgerStory) -> None:
    with pytest.raises(StateError, match="delivery 9 "):
        story.ledger.deliveries.record(9, DeliveryState.SENT, "", 1)
