from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.settings.config import StorageSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.retention import remove_expired_studies

DAY_S = 86_400.0


class Rows:
    """A ledger that knows two studies and one unreadable instance, and notes in which order things happen."""

    def __init__(self, layout: SpoolLayout) -> None:
        self.layout = layout
        self.asked_before: list[float] = []
        self.forgotten: list[str] = []
        self.came_again = ""
        self.paths = {
            "1.1": {"incoming/0/a.dcm", layout.result_path("1.1", 1, "seg.dcm")},
            "1.2": {"incoming/0/b.dcm"},
        }

    def expired_studies(self, before: float) -> list[str]:
        self.asked_before.append(before)
        return ["1.1"]

    def expire_study(self, StudyInstanceUID: str, before: float, remove: Callable[[set[str]], None]) -> bool:
        return self._expire(StudyInstanceUID, before, self.paths[StudyInstanceUID], remove)

    def expired_unreadable(self, before: float) -> list[str]:
        self.asked_before.append(before)
        return ["incoming/1/noise.dcm"]

    def expire_unreadable(self, path: str, before: float, remove: Callable[[set[str]], None]) -> bool:
        return self._expire(path, before, {path}, remove)

    def _expire(self, what: str, before: float, paths: set[str], remove: Callable[[set[str]], None]) -> bool:
        self.asked_before.append(before)
        if what == self.came_again:
            return False
        remove(paths)
        assert not any((self.layout.root / path).exists() for path in paths)
        self.forgotten.append(what)
        return True


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    layout = SpoolLayout(tmp_path)
    layout.prepare()
    return layout


def fill(layout: SpoolLayout, rows: Rows) -> None:
    # A montage, and what a superseded run left, have no row.
    unlisted = {layout.result_path("1.1", 1, "montage.png"), layout.result_path("1.1", 2, "seg.dcm")}
    for path in {"incoming/1/noise.dcm"}.union(unlisted, *rows.paths.values()):
        (layout.root / path).parent.mkdir(parents=True, exist_ok=True)
        (layout.root / path).write_bytes(b"x")


def test_what_is_old_and_done_goes_files_first(layout: SpoolLayout) -> None:
    rows = Rows(layout)
    fill(layout, rows)

    removed = remove_expired_studies(rows, layout, StorageSettings(keep_days=2), now=10 * DAY_S)

    assert removed == 1
    assert rows.asked_before == [8 * DAY_S] * 4
    assert rows.forgotten == ["1.1", "incoming/1/noise.dcm"]
    assert [path for path in layout.root.rglob("*") if path.is_file()] == [layout.root / "incoming/0/b.dcm"]
    assert list(layout.results.iterdir()) == []
    assert (layout.incoming / "0").is_dir()


@pytest.mark.parametrize("came_again", ["1.1", "incoming/1/noise.dcm"])
def test_what_came_again_meanwhile_stays(layout: SpoolLayout, came_again: str) -> None:
    rows = Rows(layout)
    fill(layout, rows)
    rows.came_again = came_again

    assert remove_expired_studies(rows, layout, StorageSettings(keep_days=2), now=10 * DAY_S) == (
        came_again != "1.1"
    )

    kept = rows.paths["1.1"] if came_again == "1.1" else {came_again}
    assert all((layout.root / path).exists() for path in kept)
    assert came_again not in rows.forgotten


def test_a_file_that_is_gone_already_does_not_stop_it(layout: SpoolLayout) -> None:
    rows = Rows(layout)

    assert remove_expired_studies(rows, layout, StorageSettings(keep_days=2), now=0.0) == 1
    assert rows.forgotten == ["1.1", "incoming/1/noise.dcm"]
