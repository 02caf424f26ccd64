"""When to try again and what travels together. Pure: rows and `now` in, a decision out."""

from __future__ import annotations

from collections.abc import Iterable

from dicomnode.records import Delivery
from dicomnode.settings.config import DeliverySettings

_SECONDS_PER_HOUR = 3600.0
# 2 ** 40 first waits are longer than any maximum; a larger power would only overflow.
_LARGEST_EXPONENT = 40


def plan_retry(
    attempts: int, first_failed_at: float | None, now: float, settings: DeliverySettings
) -> float | None:
    """Return when a delivery that has just failed is due again, or None when it is to be given up.

    The wait doubles with each attempt, up to `backoff_maximum_s`. There is no jitter: a destination has one
    sender at a time. The last try lies exactly at the end of `give_up_after_hours`.

    Parameters
    ----------
    attempts
        Tries so far, the failed one included; at least 1.
    first_failed_at
        When the first of these tries failed, in seconds since the epoch; None when it is this one.
    now
        Seconds since the epoch.
    """
    deadline = (
        now if first_failed_at is None else first_failed_at
    ) + settings.give_up_after_hours * _SECONDS_PER_HOUR
    if now >= deadline:
        return None
    wait_s = settings.backoff_first_s * 2.0 ** min(attempts - 1, _LARGEST_EXPONENT)
    return float(min(now + min(wait_s, settings.backoff_maximum_s), deadline))


def group_by_job(deliveries: Iterable[Delivery]) -> list[list[Delivery]]:
    """Return the deliveries of each job together, the longest due job first.

    Within a job they keep the order in which they were made: a segmentation before the report that refers to
    it.
    """
    groups: dict[int, list[Delivery]] = {}
    for delivery in deliveries:
        groups.setdefault(delivery.job_id, []).append(delivery)
    longest_due_first = sorted(
        groups.values(), key=lambda group: min(delivery.next_attempt_at for delivery in group)
    )
    return [sorted(group, key=lambda delivery: delivery.id) for group in longest_due_first]
