"""A process that is killed at any statement leaves a ledger that is whole and goes on."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dicomnode.ledger.ledger import Ledger
from dicomnode.states import JobState
from tests.factories.ledger import STUDY, LedgerStory, received, release_owner, sqlite_url

# Runs a study through every verb, again and again from the start, each time killed some statements later, until it comes to the end.
KILLED_AT_EVERY_STATEMENT = """
import os, shutil, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from dicomnode.ledger.ledger import Ledger
from dicomnode.states import DeliveryState
from tests.factories.ledger import LedgerStory, sqlite_url

root = Path(sys.argv[1])

def live(folder, last):
    ledger = Ledger.open(sqlite_url(folder))
    count = 0
    def die(*_):
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
    event.listen(Engine, "before_cursor_execute", die)
    event.listen(Engine, "commit", die)
    story = LedgerStory(ledger)
    story.encoded()
    first, second = ledger.deliveries.claim("work:1", 41, 60, 10)
    ledger.deliveries.record(first.id, DeliveryState.SENT, "0x0000", 42)
    ledger.deliveries.record(second.id, DeliveryState.DUE, "no answer", 42, 47)
    story.waiting(99)
    os._exit(0)

number, stride = 0, int(sys.argv[2])
while True:
    number += stride
    folder = root / f"{number:04d}"
    shutil.copytree(root / "empty", folder)
    child = os.fork()
    if child == 0:
        live(folder, number)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
"""

ADDING_UNTIL_KILLED = """
import sys
from dicomnode.ledger.ledger import Ledger
from tests.factories.ledger import received
ledger = Ledger.open(sys.argv[1])
for number in range(1_000_000):
    ledger.instances.add(received(number))
    print(number, flush=True)
"""


def assert_whole(folder: Path) -> None:
    """Say that nothing is half made: the file, its references, and what must be there together."""
    connection = sqlite3.connect(folder / "ledger.sqlite3")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    one = lambda statement: connection.execute(statement).fetchone()[0]  # noqa: E731
    indexed = one("SELECT count(*) FROM instances WHERE reading = 'indexed'")
    assert (
        (indexed > 0) == (one("SELECT count(*) FROM studies") == 1) == (one("SELECT count(*) FROM jobs") > 0)
    )
    encoded = one("SELECT count(*) FROM jobs WHERE state = 'encoded' OR outcome IS NOT NULL")
    assert (one("SELECT count(*) FROM results"), one("SELECT count(*) FROM deliveries")) == (
        3 * encoded,
        2 * encoded,
    )
    assert one("SELECT count(*) FROM jobs WHERE state NOT IN ('superseded')") == (1 if indexed else 0)
    assert one("SELECT count(*) FROM jobs WHERE state = 'superseded'") == one(
        "SELECT count(*) FROM jobs WHERE revision = 2"
    )
    assert one("SELECT count(*) FROM jobs WHERE (state = 'running') <> (owner IS NOT NULL)") == 0
    assert one("SELECT count(*) FROM deliveries WHERE (state = 'sending') <> (owner IS NOT NULL)") == 0
    connection.close()


def assert_goes_on(folder: Path) -> None:
    """Say that a restart takes the study to its answer."""
    ledger = Ledger.open(sqlite_url(folder))
    release_owner(ledger, "work:1", 1000)
    story = LedgerStory(ledger)
    story.receive(1, 2, 99)
    story.index(1001)
    for job in ledger.jobs.waiting():
        ledger.jobs.mark_ready(job.id, "quiet", {}, 1002)
    while job_claimed := ledger.jobs.claim("work:2", 1003, 60):
        story.finish(job_claimed, owner="work:2", now=1004)
    assert len(ledger.deliveries.claim("work:2", 1005, 60, 10)) == 2
    assert story.newest()["state"] == JobState.ENCODED.value
    assert len(ledger.instances.of_study(STUDY)) == 3
    ledger.close()


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_killed_at_every_statement(tmp_path: Path, repo_root: Path, stride: int) -> None:
    (tmp_path / "empty").mkdir()
    Ledger.open(sqlite_url(tmp_path / "empty")).close()
    command = [sys.executable, "-c", KILLED_AT_EVERY_STATEMENT, str(tmp_path), str(stride)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "empty")
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 80 // stride
    for folder in folders:
        assert_whole(folder)
    for folder in folders[::6]:
        assert_goes_on(folder)


@pytest.mark.parametrize("delay_s", [0.01, 0.15])
def test_what_was_listed_before_a_kill_is_listed_after_it(
    url: str, tmp_path: Path, repo_root: Path, delay_s: float
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ADDING_UNTIL_KILLED, url], cwd=repo_root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    listed = [int(line) for line in (first, *process.stdout.read().splitlines()) if line.strip()]
    process.stdout.close()
    process.wait()
    ledger = Ledger.open(url)
    paths = set(ledger.instances.paths_below("incoming"))
    assert {received(number).path for number in listed} <= paths
    # One more may have been committed and not been told any more.
    assert len(paths) - len(listed) in (0, 1)
    ledger.close()
