"""Files below a folder: in order, through links, each once, and never round in a circle."""

from __future__ import annotations

from pathlib import Path

from dicomnode.offline.folders import files_below


def test_linked_folders_are_looked_into_and_circles_end(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "studies"
    (elsewhere / "series").mkdir(parents=True)
    (elsewhere / "series" / "2.dcm").write_text("2")
    (elsewhere / "series" / "1.dcm").write_text("1")
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "3.dcm").write_text("3")
    (folder / "own" / "back").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere / "series")
    (folder / "4.dcm").symlink_to(elsewhere / "series" / "1.dcm")
    (folder / "broken").symlink_to(tmp_path / "nowhere")

    found = [path.relative_to(folder).as_posix() for path in files_below(folder)]

    assert found == ["4.dcm", "again/1.dcm", "again/2.dcm", "own/3.dcm"]
    assert list(files_below(tmp_path / "missing")) == []
