"""The working side, in the order of the arrow. Read this first.

    mend_times          after the clock was set back                         ledger
    index_instances     read the headers of what `receive` has made safe     spool -> ledger -> study
    assess_studies      is a study complete, by evidence or by quiet time?   study
    compute_ahead       compute what looks whole while it still waits        study -> ... -> results
    fetch_missing       get what is missing from the PACS, where configured  fetch
    learn_destinations  what does each destination accept?                   delivery
    answer_next         claim a ready study, answer it, keep the results     study -> ... -> results
    deliver_results     send what is due                                     delivery
    confirm_results     prove that it arrived, close the studies             delivery

Each function is safe to call at any time, any number of times, and to be killed in: the ledger says what is
left to do. How a study becomes ready stands in `working/readiness.py`, how it is answered in
`working/answering.py`.
"""

from __future__ import annotations

import structlog

from dicomnode import fetch
from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.delivery.deliver import lease_s as delivery_lease_s
from dicomnode.delivery.learn import find_outdated, learn_due
from dicomnode.errors import NodeError, RetryLater
from dicomnode.working.answering import LEASE_S, answer_next, compute_ahead, has_due
from dicomnode.working.readiness import assess, assess_studies, index_instances
from dicomnode.working.workplace import Workplace

__all__ = (
    "LEASE_S",
    "Workplace",
    "answer_next",
    "assess",
    "assess_studies",
    "compute_ahead",
    "confirm_results",
    "deliver_results",
    "fetch_missing",
    "has_due",
    "index_instances",
    "learn_destinations",
    "mend_times",
)

log = structlog.get_logger()


def mend_times(workplace: Workplace) -> int:
    """Make due what waits for a time of a clock that was set back since; returns how much that was."""
    lease_s, learn_s = max(LEASE_S, delivery_lease_s(workplace.config)), workplace.config.delivery.learn_s
    mended = workplace.ledger.times.mend(
        workplace.now(), lease_s=lease_s, fetch_wait_s=fetch.LONGEST_WAIT_S, learn_s=learn_s
    )
    if mended:
        log.warning("clock_was_set_back", count=mended)
    return mended


def fetch_missing(workplace: Workplace) -> int:
    """Fetch from the PACS what the rules of [fetch] want, and ask it how many images there are.

    Returns how much was done.
    """
    fetched = fetch.fetch_due(workplace.config, workplace.ledger, workplace.now)
    return fetched + fetch.count_due(workplace.config, workplace.ledger, workplace.now)


def learn_destinations(workplace: Workplace) -> int:
    """Ask the destinations that are due what they accept; returns how many were asked.

    What this shows to have been sent in vain is made anew.
    """
    ask_count = learn_due(workplace.ledger, workplace.config, workplace.now)
    for study in find_outdated(workplace.ledger, workplace.config):
        reason = "a destination that gave up on it accepts other objects"
        try:
            workplace.ledger.jobs.retry(study, workplace.now(), rerun=True, reason=reason)
        except RetryLater:
            raise
        except NodeError:
            # Something of it is being sent at this moment: the next round sees it again.
            continue
        log.info("study_answered_again", study_instance_uid=study, reason=reason)
    return ask_count


def deliver_results(workplace: Workplace) -> int:
    """Send what is due; returns how many objects were tried."""
    return deliver_due(
        workplace.ledger,
        workplace.layout,
        workplace.config,
        workplace.now,
        owner=workplace.owner,
        stopping=lambda: workplace.compute.closed or workplace.is_outdated(),
        audit=workplace.audit,
    )


def confirm_results(workplace: Workplace) -> int:
    """Ask after what was sent and close the studies whose results have all arrived.

    Returns how many objects were asked after.
    """
    ask_count = confirm_due(workplace.ledger, workplace.config, workplace.now, workplace.make_uid)
    workplace.ledger.jobs.close_delivered(workplace.now())
    return ask_count
