"""A hospital's senders, by a virtual clock: how often is a study answered twice, or from a part of it?"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from dicomnode.working import readiness
from tests.factories.sending import Record, Simulation, make_pattern, summarise

SEED = 17
# Two studies in three minutes: those of several senders overlap.
APART_S = 90.0
# One in 200 is asked for. The ledger knows no sender at first; with this seed it is one study.
MOST_TWICE = 5


def simulate(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    chance, simulation = random.Random(SEED), Simulation(folder)
    monkeypatch.setattr(readiness, "read_header", simulation.read_header)
    monkeypatch.setattr(readiness, "_keep_order", lambda *_: None)
    simulation.now = 1_700_000_000.0
    starts = [simulation.now + APART_S * number + chance.uniform(0, APART_S) for number in range(count)]
    try:
        return simulation.run([make_pattern(number, start, chance) for number, start in enumerate(starts)])
    finally:
        simulation.ledger.close()


def check(records: list[Record], most_twice: int) -> None:
    figures = summarise(records)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    assert figures["unanswered"] == 0
    assert figures["short_without_saying_so"] == 0
    assert figures["answered_twice"] <= most_twice
    assert figures["median_wait_s"] <= 15


def test_a_few_studies_are_answered_soon_and_never_in_part_without_saying_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(simulate(tmp_path, 25, monkeypatch), most_twice=3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_of_1000_studies_at_most_5_are_answered_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(simulate(tmp_path, 1000, monkeypatch), most_twice=MOST_TWICE)
