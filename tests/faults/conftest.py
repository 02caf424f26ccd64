"""The table at the end of `make test-faults`: what was injected, and what became of every instance and study."""

from __future__ import annotations

import pytest

from tests.factories.hospital import Counts, Settle

_ROWS = pytest.StashKey[list[tuple[str, int, Counts]]]()


@pytest.fixture
def settle(pytestconfig: pytest.Config) -> Settle:
    """Return what notes a test's counts for the table and holds them against the promise: nothing lost, everything answered once."""

    def note(fault: str, injected: int, counts: Counts) -> None:
        pytestconfig.stash.setdefault(_ROWS, []).append((fault, injected, counts))
        assert counts.acknowledged > 0
        assert (counts.lost, counts.unanswered, counts.twice) == (0, 0, 0), counts

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    terminalreporter.section("faults injected, and what became of what was acknowledged")
    heads = ("injected", "acknowledged", "lost", "studies", "unanswered", "twice")
    terminalreporter.write_line(f"{'fault':58}" + "".join(f"{head:>14}" for head in heads))
    table = [
        (fault, injected, c.acknowledged, c.lost, c.studies, c.unanswered, c.twice)
        for fault, injected, c in rows
    ]
    for fault, *numbers in [*table, ("all", *(sum(row[place] for row in table) for place in range(1, 7)))]:
        terminalreporter.write_line(f"{fault:58}" + "".join(f"{number:>14}" for number in numbers))
