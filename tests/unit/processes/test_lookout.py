"""What runs on a timer and gives no sign of life is named; what works, however long, is not."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from dicomnode.processes.lookout import Lookout


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lookout(clock: Clock) -> Lookout:
    lookout = Lookout(clock)
    lookout.expect("assess", every_s=1, silent_s=60)
    lookout.expect("remove", every_s=3600, silent_s=60)
    return lookout


def test_a_timer_that_no_run_begins_for_is_named(lookout: Lookout, clock: Clock) -> None:
    clock.now += 61
    assert lookout.overdue() == {}
    clock.now += 1
    assert lookout.overdue() == {"assess": 62}
    with lookout.run("assess"):
        assert lookout.overdue() == {}
    clock.now += 61
    assert lookout.overdue() == {}


def test_a_run_that_hangs_is_named_and_one_that_works_is_not(lookout: Lookout, clock: Clock) -> None:
    with lookout.run("remove") as alive:
        for _ in range(100):
            clock.now += 60
            alive()
            assert "remove" not in lookout.overdue()
        clock.now += 61
        assert lookout.overdue()["remove"] == 61
    assert "remove" not in lookout.overdue()


def test_a_run_that_hangs_is_not_hidden_by_another_of_its_name(lookout: Lookout, clock: Clock) -> None:
    with ExitStack() as stack:
        stack.enter_context(lookout.run("assess"))
        for _ in range(5):
            clock.now += 20
            with lookout.run("assess"):
                pass
        assert lookout.overdue() == {"assess": 100}


def test_a_run_that_raises_has_ended(lookout: Lookout, clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), lookout.run("assess") as alive:
        raise ZeroDivisionError
    alive()
    clock.now += 61
    assert lookout.overdue() == {}
    clock.now += 1
    assert lookout.overdue() == {"assess": 62}
