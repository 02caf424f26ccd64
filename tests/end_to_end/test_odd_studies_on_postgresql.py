"""The odd studies with the ledger on a real PostgreSQL, which refuses what SQLite takes: a NUL in a text, half of a surrogate pair."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode import answer
from dicomnode.ledger.ledger import Ledger
from tests.end_to_end.test_odd_studies import Databases, run_group
from tests.factories.ledger import STUDY, header, received
from tests.factories.postgres import make_database, postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tools,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
STUDIES = 100


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as started:
        yield started


def test_a_hundred_odd_studies_and_none_is_silent(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would take over the logging of the whole test process.
    monkeypatch.setattr(answer, "configure_logging", lambda _settings: None)
    databases = Databases(make_database(server, "ledger"), make_database(server, "again"))

    tally = run_group(tmp_path, range(1, STUDIES + 1), databases)

    assert sum(tally.ends.values()) == STUDIES
    assert tally.silent == []
    assert tally.misfiled == []


REFUSED_TEXTS = ["A\0B", "\ud800", "x" * 70_000]


@pytest.mark.parametrize("text", REFUSED_TEXTS, ids=["nul", "surrogate", "long"])
def test_a_row_that_the_database_refuses_fails_alone(
    server: str, text: str, request: pytest.FixtureRequest
) -> None:
    """Rows that come together share a transaction; the others must not fail with the bad row."""
    ledger = Ledger.open(make_database(server, request.node.callspec.id))
    outcomes: dict[int, object] = {}
    gate = threading.Barrier(8)

    def add(number: int) -> None:
        row = replace(received(number), calling_ae=text) if number == 3 else received(number)
        gate.wait()
        try:
            outcomes[number] = ledger.instances.add(row)
        except Exception as fault:  # noqa: BLE001  any error is one row's own
            outcomes[number] = fault

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others = {outcome for number, outcome in outcomes.items() if number != 3}
    ledger.close()
    assert others == {"new"}


def test_words_that_the_database_refuses_are_marked_and_kept(server: str) -> None:
    """A description of a scanner, or the answer of a peer, with a NUL or half of a surrogate pair in it."""
    url = make_database(server, "words")
    ledger = Ledger.open(url)
    for number in range(2):
        ledger.instances.add(received(number))
    (first, _), (second, _) = ledger.instances.unindexed(10)
    odd = replace(header(0), SeriesDescription="A\0B\ud800", extra={"A\0": "B\ud800"})
    ledger.instances.record_header(first, odd, 20.0)
    ledger.instances.record_unreadable(second, "it says A\0B\ud800", 21.0, StudyInstanceUID=STUDY)
    (unreadable,) = ledger.history.of_study(STUDY).unreadable  # type: ignore[union-attr]
    assert unreadable.reason == "it says A\ufffdB?"
    (read,) = ledger.instances.of_study(STUDY)
    assert read.header.SeriesDescription == "A\0B\ud800"
    ledger.close()
