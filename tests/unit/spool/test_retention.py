from __future__ import annotations

from pathlib import Path

from dicomnode.config import StorageSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.retention import remove_expired_studies

DAY_S = 86_400.0


class Rows:
    """A ledger that knows two studies and one unreadable instance, and notes in which order things happen."""

    def __init__(self, layout: SpoolLayout) -> None:
        self.layout = layout
        self.asked_before: list[float] = []
        self.forgotten: list[str] = []
        self.paths = {"1.1": {"incoming/0/a.dcm", "results/aa/1/seg.dcm"}, "1.2": {"incoming/0/b.dcm"}}

    def expired_studies(self, before: float) -> list[str]:
        self.asked_before.append(before)
        return ["1.1"]

    def study_paths(self, StudyInstanceUID: str) -> set[str]:
        return self.paths[StudyInstanceUID]

    def forget_study(self, StudyInstanceUID: str) -> None:
        assert not any((self.layout.root / path).exists() for path in self.paths[StudyInstanceUID])
        self.forgotten.append(StudyInstanceUID)

    def expired_unreadable(self, before: float) -> list[str]:
        self.asked_before.append(before)
        return ["incoming/1/noise.dcm"]

    def forget_instance(self, path: str) -> None:
        self.forgotten.append(path)


def test_what_is_old_and_done_goes_files_first(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path)
    layout.prepare()
    rows = Rows(layout)
    for path in {"incoming/1/noise.dcm"}.union(*rows.paths.values()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")

    removed = remove_expired_studies(rows, layout, StorageSettings(keep_days=2), now=10 * DAY_S)

    assert removed == 1
    assert rows.asked_before == [8 * DAY_S] * 2
    assert rows.forgotten == ["1.1", "incoming/1/noise.dcm"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "incoming/0/b.dcm"]
    assert list(layout.results.iterdir()) == []
    assert (layout.incoming / "0").is_dir()


def test_a_file_that_is_gone_already_does_not_stop_it(tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path)
    layout.prepare()
    rows = Rows(layout)

    assert remove_expired_studies(rows, layout, StorageSettings(keep_days=2), now=0.0) == 1
    assert rows.forgotten == ["1.1", "incoming/1/noise.dcm"]
