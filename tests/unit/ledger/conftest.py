"""A ledger in a temporary file, and instances, headers and results to put in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.ledger.ledger import Ledger
from tests.factories.ledger import LedgerStory, sqlite_url


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a ledger that was migrated once: a copy of it opens ten times as fast as a new one."""
    folder = tmp_path_factory.mktemp("empty")
    Ledger.open(sqlite_url(folder)).close()
    return folder / "ledger.sqlite3"


@pytest.fixture
def open_ledger(url: str, tmp_path: Path, empty_ledger: Path) -> Iterator[Callable[[], Ledger]]:
    opened: list[Ledger] = []

    def open_one() -> Ledger:
        if not opened:
            shutil.copyfile(empty_ledger, tmp_path / "ledger.sqlite3")
        opened.append(Ledger.open(url))
        return opened[-1]

    yield open_one
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger: Callable[[], Ledger]) -> Ledger:
    return open_ledger()


@pytest.fixture
def story(ledger: Ledger) -> LedgerStory:
    return LedgerStory(ledger)
