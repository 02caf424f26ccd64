"""A supervised process: one that never started is told, one that ran before is started again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from dicomnode.supervise import Side

CANNOT_START = [sys.executable, "-S", "-c", "raise SystemExit(3)"]


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side(CANNOT_START)
    side.process.wait()
    yield side
    side.wait(5)


def test_what_cannot_start_at_first_is_a_wrong_set_up(side: Side) -> None:
    assert not side.restart_if_dead(time.monotonic())
    assert side.never_started(3)


def test_what_ran_before_is_started_again_however_it_ends(side: Side) -> None:
    died_at = time.monotonic() + 61
    assert not side.restart_if_dead(died_at)
    assert not side.never_started(3)

    assert side.restart_if_dead(died_at + 1)
    side.process.wait()
    assert not side.restart_if_dead(died_at + 2)
    assert not side.never_started(3)
    assert side.restart_if_dead(died_at + 4)
