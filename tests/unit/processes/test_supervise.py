"""A supervised process: one that never started is told, one that ran before and dies, or falls silent, is started again."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from dicomnode.processes.supervise import MOST_DEATHS, Side

# Says what is in its arguments, as a side of the node does, and then nothing more.
TALKS = """
import sys, time, sdnotify
for word in sys.argv[1:]:
    sdnotify.SystemdNotifier(debug=True).notify(word)
time.sleep(600)
"""
CANNOT_START = [sys.executable, "-S", "-c", "raise SystemExit(3)"]


@pytest.fixture
def side() -> Iterator[Side]:
    side = Side(CANNOT_START)
    side.process.wait()
    yield side
    side.wait(5)


def test_what_cannot_start_at_first_is_a_wrong_set_up(side: Side) -> None:
    assert not side.restart_if_dead(time.monotonic())
    assert side.start_failure((2, 3)) == 3


def test_what_ran_before_is_started_again_however_it_ends(side: Side) -> None:
    died_at = time.monotonic() + 61
    assert not side.restart_if_dead(died_at)
    assert side.start_failure((2, 3)) is None

    assert side.restart_if_dead(died_at + 1)
    side.process.wait()
    assert not side.restart_if_dead(died_at + 2)
    assert side.start_failure((2, 3)) is None
    assert side.restart_if_dead(died_at + 4)


@pytest.fixture
def started() -> Iterator[Callable[..., Side]]:
    sides: list[Side] = []

    def start(*words: str) -> Side:
        sides.append(Side([sys.executable, "-c", TALKS, *words]))
        return sides[-1]

    yield start
    for side in sides:
        side.process.terminate()
        side.wait(10)


def watch(side: Side, since: float, seconds: float) -> float | None:
    """Look at it twice a second of a made-up time; return when it was killed."""
    for step in range(int(2 * seconds)):
        if side.kill_if_silent(since + step / 2):
            return step / 2
    return None


def wait_until_heard(side: Side) -> float:
    """Return the made-up moment at which it was heard."""
    end = time.monotonic() + 30
    while side._heard_at is None and time.monotonic() < end:
        assert not side.kill_if_silent(time.monotonic())
        time.sleep(0.05)
    assert side._heard_at is not None
    return side._heard_at


def test_what_was_ready_and_falls_silent_is_killed_and_started_again(started: Callable[..., Side]) -> None:
    side = started("READY=1", "WATCHDOG=1")
    heard_at = wait_until_heard(side)
    first = side.process.pid

    assert watch(side, heard_at, 120) == pytest.approx(60.5, abs=1)
    assert side.process.wait(10) == -signal.SIGKILL
    assert not side.restart_if_dead(heard_at + 100)
    assert side.restart_if_dead(heard_at + 102)
    assert side.process.pid != first
    # The new one has its own time.
    wait_until_heard(side)


def test_what_is_still_starting_is_left_alone(started: Callable[..., Side]) -> None:
    assert watch(started(), time.monotonic(), 3600) is None


def test_a_supervisor_that_slept_blames_nobody(started: Callable[..., Side]) -> None:
    side = started("READY=1")
    heard_at = wait_until_heard(side)
    assert watch(side, heard_at + 3600, 59) is None


@pytest.mark.parametrize(
    ("program", "code"), [("", 1), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_what_ends_right_after_its_start_is_given_up_in_the_end(program: str, code: int) -> None:
    side = Side([sys.executable, "-S", "-c", program])
    now, starts = time.monotonic(), 1
    while side.lost_code(3) is None:
        side.process.wait()
        starts += side.restart_if_dead(now)
        now += 1
        assert starts <= MOST_DEATHS
    assert (side.lost_code(3), starts) == (code, MOST_DEATHS)
    side.wait(5)


def test_what_ran_before_and_waits_for_something_is_never_given_up() -> None:
    side = Side(CANNOT_START)
    side.process.wait()
    now = time.monotonic() + 61
    for _ in range(3 * MOST_DEATHS):
        side.restart_if_dead(now)
        side.process.wait()
        now += 31
    assert side.lost_code(3) is None
    side.wait(5)


def test_only_the_child_is_listened_to(started: Callable[..., Side]) -> None:
    side = started()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for _ in range(3):
            stranger.sendto(b"READY=1\nWATCHDOG=1", side._signs.getsockname())
    assert not side.kill_if_silent(time.monotonic())
    assert (side._heard_at, side.is_ready) == (None, False)


def test_a_side_is_ready_when_it_says_so(started: Callable[..., Side]) -> None:
    side = started("STATUS=reading the spool")
    wait_until_heard(side)
    assert not side.is_ready
    ready = started("READY=1")
    wait_until_heard(ready)
    assert ready.is_ready
