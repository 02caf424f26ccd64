"""When a failed delivery is tried again, and what travels together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dicomnode.delivery.outbox import group_by_job, plan_retry
from dicomnode.records import Delivery
from dicomnode.settings.config import DeliverySettings
from dicomnode.states import DeliveryState
from tests.factories.ledger import STUDY, result

SETTINGS = DeliverySettings(backoff_first_s=5, backoff_maximum_s=100, give_up_after_hours=1)


def test_the_wait_doubles_up_to_the_maximum() -> None:
    waits = []
    for attempts in range(1, 8):
        due = plan_retry(attempts, 1000, 1000, SETTINGS)
        assert due is not None
        waits.append(due - 1000)
    assert waits == [5, 10, 20, 40, 80, 100, 100]


def test_the_last_try_is_at_the_deadline_and_then_it_is_given_up() -> None:
    assert plan_retry(9, 1000, 4550, SETTINGS) == 4600
    assert plan_retry(10, 1000, 4600, SETTINGS) is None
    assert plan_retry(10, 1000, 9999, SETTINGS) is None


def test_the_first_failure_counts_from_now() -> None:
    assert plan_retry(1, None, 5000, SETTINGS) == 5005


@given(
    attempts=st.integers(1, 10**9),
    first=st.floats(0, 1e9),
    later=st.floats(0, 1e6),
    wait_first=st.floats(1e-3, 1e6),
    wait_maximum=st.floats(1e-3, 1e6),
    hours=st.floats(1e-3, 1e4),
)
def test_any_plan_lies_ahead_and_within_its_bounds(
    attempts: int, first: float, later: float, wait_first: float, wait_maximum: float, hours: float
) -> None:
    settings = DeliverySettings(
        backoff_first_s=wait_first, backoff_maximum_s=wait_maximum, give_up_after_hours=hours
    )
    now, deadline = first + later, first + hours * 3600
    due = plan_retry(attempts, first, now, settings)
    if now >= deadline:
        assert due is None
    else:
        assert due is not None
        assert now < due <= min(now + wait_maximum, deadline)


def delivery(number: int, job_id: int, due: float) -> Delivery:
    return Delivery(number, job_id, STUDY, "pacs", result("seg"), DeliveryState.SENDING, 1, due)


def test_a_job_travels_together_in_its_order_and_the_longest_due_goes_first() -> None:
    rows = [delivery(4, 2, 5.0), delivery(2, 1, 9.0), delivery(1, 1, 9.0), delivery(3, 2, 8.0)]
    assert [[one.id for one in group] for group in group_by_job(rows)] == [[3, 4], [1, 2]]
    assert group_by_job([]) == []
