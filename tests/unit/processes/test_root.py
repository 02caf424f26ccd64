"""The node's folder is private: made so, closed again, or refused by name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dicomnode.errors import StartError
from dicomnode.processes import root as module
from dicomnode.processes.root import prepare_root


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_private(tmp_path: Path) -> None:
    prepare_root(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o777, 0o1777, 0o701])
def test_a_folder_of_ours_is_closed_again(tmp_path: Path, bits: int) -> None:
    for name in ("spool", "audit", "ledger.sqlite3", "ledger.sqlite3-wal", "work.lock"):
        (tmp_path / name).mkdir()
    tmp_path.chmod(bits)
    prepare_root(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_folder_that_holds_something_else_is_left_alone_and_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "holiday.jpg").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(StartError, match=r"storage\.root: .*mode 0755.*'holiday.jpg'.*folder of its own"):
        prepare_root(tmp_path)
    assert mode(tmp_path) == 0o755


@pytest.mark.parametrize(("bits", "is_refused"), [(0o750, False), (0o770, False), (0o757, True)])
def test_a_folder_of_somebody_else_must_not_be_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, is_refused: bool
) -> None:
    tmp_path.chmod(bits)
    monkeypatch.setattr(module.os, "getuid", lambda: os.geteuid() + 1)
    if is_refused:
        with pytest.raises(StartError, match="open to every user"):
            prepare_root(tmp_path)
    else:
        prepare_root(tmp_path)
    assert mode(tmp_path) == bits


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(StartError, match=r"storage\.root: .*cannot be made"):
        prepare_root(tmp_path / "root")
