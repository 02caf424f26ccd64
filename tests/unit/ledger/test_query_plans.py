"""No query that is asked again and again reads the whole of a table that grows: SQLite explains its own plan for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.listing import Cursor, StudyFilter
from dicomnode.ledger.schema import metadata
from dicomnode.records import AssociationNews, Conclusion
from dicomnode.states import DeliveryState, JobState, Outcome
from tests.factories.ledger import STUDY, header, new_ledger, received

# One row a destination, or a sender: they do not grow with what is received.
SMALL = {"offers", "senders", "figures"}
# Indexes of what is unfinished or odd only: a scan of one reads few rows, however many there are in all.
FEW = ("ix_instances_unread", "ix_instances_not_indexed")
# Counting: an index that covers the question is read from end to end, never the rows themselves.
COUNTING = {"health"}
GROWING = set(metadata.tables) - SMALL


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Collect the statements, with their values, that are sent to a database meanwhile."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
        sent.append((statement, values))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = new_ledger(tmp_path)
    for number in range(1, 5):
        ledger.instances.add(received(number))
    for instance_id, _ in ledger.instances.unindexed(10):
        ledger.instances.record_header(instance_id, header(instance_id), 20.0)
    yield ledger
    ledger.close()


def explain(ledger: Ledger, statement: str, values: Any) -> list[str]:
    with ledger._database.read() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        if isinstance(values, list):
            values = values[0]
        return [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def scans(plan: list[str]) -> list[str]:
    """Return the lines of a plan that read the whole of a growing table."""
    whole = []
    for line in plan:
        table = re.match(r'SCAN "?(\w+)"?', line)
        if table and table[1] in GROWING and not any(index in line for index in FEW):
            whole.append(line)
    return whole


HOT: dict[str, Callable[[Ledger], object]] = {
    "add": lambda ledger: ledger.instances.add(received(9)),
    "add again": lambda ledger: ledger.instances.add(received(1, at=30.0)),
    "unindexed": lambda ledger: ledger.instances.unindexed(500),
    "oldest unread": lambda ledger: ledger.instances.oldest_unread_at(),
    "record a header": lambda ledger: ledger.instances.record_header(1, header(1), 40.0),
    "record a late header": lambda ledger: note_late_header(ledger),  # noqa: PLW0108  it is defined below
    "record unreadable": lambda ledger: ledger.instances.record_unreadable(
        1, "odd: sentence", 40.0, StudyInstanceUID=STUDY
    ),
    "set aside": lambda ledger: ledger.instances.set_aside(STUDY),
    "of study": lambda ledger: ledger.instances.of_study(STUDY),
    "content mark": lambda ledger: ledger.instances.content_mark(STUDY),
    "last received": lambda ledger: ledger.instances.last_received_at(STUDY),
    "waiting": lambda ledger: ledger.jobs.waiting(),
    "open": lambda ledger: ledger.jobs.open_ids(),
    "count open": lambda ledger: ledger.jobs.count_open(),
    "has due": lambda ledger: ledger.jobs.has_due(50.0),
    "claim": lambda ledger: ledger.jobs.claim("work", 50.0, 60.0),
    "renew": lambda ledger: ledger.jobs.renew(1, "work", 50.0, 60.0),
    "earlier reports": lambda ledger: ledger.jobs.earlier_reports(STUDY, 2),
    "close delivered": lambda ledger: ledger.jobs.close_delivered(50.0),
    "claim deliveries": lambda ledger: ledger.deliveries.claim("work", 50.0, 60.0, 10),
    "due destinations": lambda ledger: ledger.confirmations.due_destinations(50.0),
    "mend times": lambda ledger: ledger.times.mend(50.0, lease_s=60, fetch_wait_s=60, learn_s=60),
    "fetches due": lambda ledger: ledger.fetches.due(50.0),
    "fetch counts": lambda ledger: ledger.fetches.counts(STUDY, 3.0),
    "habits": lambda ledger: ledger.senders.habits_of_study(STUDY, 120.0),
    "associations": lambda ledger: ledger.senders.record(
        [AssociationNews("a", "SCANNER", "10.0.0.7", 1.0, 2.0, True)]
    ),
    "break off": lambda ledger: ledger.senders.break_off_open(50.0),
    "forget senders": lambda ledger: ledger.senders.forget_old(50.0),
    "paths below": lambda ledger: list(ledger.instances.paths_below("incoming/0")),
    "count below": lambda ledger: ledger.instances.count_below("incoming/0"),
    "expired": lambda ledger: ledger.retention.expired_studies(100.0),
    "expired unreadable": lambda ledger: ledger.retention.expired_unreadable(100.0),
    "health": lambda ledger: ledger.history.health(),
    "note an answer": lambda ledger: answer_study(ledger),  # noqa: PLW0108  it is defined below
    "figures of answers": lambda ledger: ledger.answers.figures(0.0),
    "forget answers": lambda ledger: ledger.answers.forget_old(1e9),
    "page of a list": lambda ledger: ledger.listing.page(StudyFilter(), 50, Cursor(9.0, STUDY)),
    "page of a list, of one state": lambda ledger: ledger.listing.page(StudyFilter(state=JobState.DONE), 50),
    "page of a list, of one outcome": lambda ledger: ledger.listing.page(
        StudyFilter(outcome=Outcome.REFUSED), 50
    ),
    "page of a list, of one delivery state": lambda ledger: ledger.listing.page(
        StudyFilter(delivery=DeliveryState.GIVEN_UP), 50
    ),
}


def answer_study(ledger: Ledger) -> None:
    """Let a study be answered, twice."""
    ledger.jobs.mark_ready(1, "", {}, 30.0)
    for now in (50.0, 60.0):
        assert ledger.jobs.claim("work", now, 60.0)
        ledger.jobs.finish(1, "work", Conclusion(Outcome.NEGATIVE, "none", (), {}), now)
        ledger.jobs.retry(STUDY, now, rerun=True)


def note_late_header(ledger: Ledger) -> None:
    """Let an image come to a study that is answered, after a pause."""
    ledger.jobs.mark_ready(1, "", {"roles": {}}, 30.0)
    ledger.instances.add(received(8, at=90.0))
    ((instance_id, _),) = ledger.instances.unindexed(1)
    ledger.instances.record_header(instance_id, header(8), 95.0)


@pytest.mark.parametrize("verb", HOT)
def test_no_hot_query_reads_the_whole_of_a_table_that_grows(ledger: Ledger, verb: str) -> None:
    with statements() as sent:
        HOT[verb](ledger)
    explained = [
        (statement, explain(ledger, statement, values))
        for statement, values in sent
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))
    ]
    assert explained or verb == "add"
    whole = {statement: scans(plan) for statement, plan in explained if scans(plan)}
    if verb in COUNTING:
        whole = {
            statement: lines
            for statement, lines in whole.items()
            if any("COVERING INDEX" not in line for line in lines)
        }
    assert not whole, whole


def test_a_scan_is_noticed(ledger: Ledger) -> None:
    plan = explain(ledger, "SELECT * FROM instances WHERE size_bytes = 1", ())
    assert scans(plan)
