"""Both transition tables over every pair, against pairs that are written out here; and the page that is drawn from them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from dicomnode.errors import StateError
from dicomnode.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, DeliveryState, JobState, advance
from scripts import states as drawing

GOOD_JOB_CHANGES = """
waiting ready
waiting superseded
ready running
ready superseded
running ready
running encoded
running failed
running superseded
encoded done
encoded waiting
encoded ready
encoded superseded
done waiting
done ready
done superseded
failed waiting
failed ready
failed superseded
"""
GOOD_DELIVERY_CHANGES = """
due sending
due withdrawn
sending due
sending sent
sending given_up
sent confirmed
sent due
sent given_up
confirmed due
given_up due
given_up withdrawn
"""


def pairs(text: str) -> set[tuple[str, ...]]:
    return {tuple(line.split()) for line in text.split("\n") if line}


@pytest.mark.parametrize(("current", "target"), list(product(JobState, JobState)))
def test_every_pair_of_job_states(current: JobState, target: JobState) -> None:
    if (current.value, target.value) in pairs(GOOD_JOB_CHANGES):
        assert advance(current, target) is target
    else:
        with pytest.raises(StateError, match=f"^JobState {current.value} may not become {target.value}$"):
            advance(current, target)


@pytest.mark.parametrize(("current", "target"), list(product(DeliveryState, DeliveryState)))
def test_every_pair_of_delivery_states(current: DeliveryState, target: DeliveryState) -> None:
    if (current.value, target.value) in pairs(GOOD_DELIVERY_CHANGES):
        assert advance(current, target) is target
    else:
        with pytest.raises(
            StateError, match=f"^DeliveryState {current.value} may not become {target.value}$"
        ):
            advance(current, target)


def test_the_tables_name_every_state() -> None:
    assert list(JOB_TRANSITIONS) == list(JobState)
    assert list(DELIVERY_TRANSITIONS) == list(DeliveryState)


@pytest.mark.parametrize("table", [JOB_TRANSITIONS, DELIVERY_TRANSITIONS])
def test_every_state_can_be_reached_from_the_first(table: dict[JobState, frozenset[JobState]]) -> None:
    reached = {next(iter(table))}
    while grown := {target for state in reached for target in table[state]} - reached:
        reached |= grown
    assert reached == set(table)


def test_the_page_is_current(repo_root: Path) -> None:
    drawn = (repo_root / "docs" / "states.md").read_text(encoding="utf-8")
    assert drawn == drawing.page(), "run `python -m scripts.states`"


def test_the_page_shows_every_change_of_both_tables() -> None:
    drawn = {
        tuple(line.split(" --> "))
        for line in drawing.page().replace("    ", "").split("\n")
        if " --> " in line
    }
    assert {change for change in drawn if "[*]" not in change} == pairs(GOOD_JOB_CHANGES) | pairs(
        GOOD_DELIVERY_CHANGES
    )


def test_a_page_that_is_out_of_date_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "PAGE", tmp_path / "states.md")
    monkeypatch.setattr("sys.argv", ["states", "--check"])
    assert drawing.main() == 1
    drawing.PAGE.write_text(drawing.page(), encoding="utf-8")
    assert drawing.main() == 0


def test_every_state_has_its_meaning() -> None:
    assert list(drawing.JOB_MEANINGS) == list(JobState)
    assert list(drawing.DELIVERY_MEANINGS) == list(DeliveryState)
