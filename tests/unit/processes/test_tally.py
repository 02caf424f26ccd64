"""Counts on their way into the ledger: nothing is counted twice or lost while the ledger is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.errors import RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.processes.tally import Tally
from tests.factories.ledger import new_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = new_ledger(tmp_path)
    yield opened
    opened.close()


def test_two_processes_add_up_and_each_gives_its_own_sign_of_life(ledger: Ledger) -> None:
    for side, refusals in (("receive", 2), ("work", 3)):
        tally = Tally(side, ledger)
        for _ in range(refusals):
            tally.refused("association_rejected", "calling AE title not recognized")
        tally.hand_in(alive=True)
        tally.hand_in(alive=True)

    figures = ledger.figures.read()
    assert figures["refusals"] == {"association_rejected|calling AE title not recognized": 5}
    assert figures["starts"] == {"receive": 1, "work": 1}
    assert set(figures["alive"]) == {"receive", "work"}


def test_what_the_ledger_does_not_take_is_added_the_next_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally("work", ledger)
    tally.lost_workers(2)
    with monkeypatch.context() as patch:

        def away(_amounts: object) -> None:
            raise RetryLater("the ledger is not available")

        patch.setattr(ledger.figures, "add", away)
        tally.hand_in(alive=True)
        assert ledger.figures.read() == {}
    tally.lost_workers(1)
    tally.hand_in(alive=False)

    figures = ledger.figures.read()
    assert (figures["lost_workers"], figures["starts"]) == ({"": 3}, {"work": 1})
    assert "alive" not in figures


def test_a_stranger_cannot_fill_the_ledger_with_reasons(ledger: Ledger) -> None:
    tally = Tally("receive", ledger)
    for number in range(1000):
        tally.refused("connection_cut", f"reason {number}")
    tally.hand_in(alive=True)

    refusals = ledger.figures.read()["refusals"]
    assert sum(refusals.values()) == 1000
    assert len(refusals) <= 202
