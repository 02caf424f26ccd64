"""The word that an orderly stop leaves: taken once, and believed only of what nobody has touched since."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.spool import orderly
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.orderly import NOTE, note_all_listed, take_note

EXTENT = (3, 7)
NAME = "0123"


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    layout = SpoolLayout(tmp_path / "spool")
    layout.prepare()
    (layout.incoming / "0" / NAME).write_bytes(b"an instance")
    quiet()
    return layout


def quiet() -> None:
    """Let the clock of the file system go on."""
    time.sleep(2 * orderly._TICK_NS / 1e9)


def test_the_word_is_taken_once(layout: SpoolLayout) -> None:
    assert note_all_listed(layout, EXTENT)
    assert take_note(layout, EXTENT)
    assert not (layout.root / NOTE).exists()
    assert not take_note(layout, EXTENT)


def swap_back(file: Path) -> None:
    """Take a file away and put it back."""
    file.rename(file.with_name("elsewhere"))
    file.with_name("elsewhere").rename(file)


def restore(file: Path) -> None:
    """Put a copy in the place of the folder, as a backup does: the same names, bytes and times of writing."""
    folder = file.parent
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.copystat(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another file": lambda file: file.with_name("0124").write_bytes(b"another"),
    "a file of half a transfer": lambda file: file.with_name(".x.part").write_bytes(b""),
    "a file that is gone": lambda file: file.unlink(),
    "a file of another name": lambda file: file.rename(file.with_name("0124")),
    "a file taken away and put back": swap_back,
    "a file in another folder": lambda file: (file.parent.parent / "f" / "x").write_bytes(b""),
    "another folder": lambda file: (file.parent.parent / "g").mkdir(),
    "a folder from a backup": restore,
    "the time of before": lambda file: (
        file.with_name("0124").write_bytes(b"another"),
        os.utime(file.parent, (file.parent.stat().st_atime, 1.0)),
    ),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_any_change_of_the_folders_takes_its_worth(layout: SpoolLayout, change: str) -> None:
    assert note_all_listed(layout, EXTENT)
    CHANGES[change](layout.incoming / "0" / NAME)

    assert not take_note(layout, EXTENT)
    assert not (layout.root / NOTE).exists()


@pytest.mark.parametrize("extent", [(2, 7), (3, 8), (0, 0)])
def test_it_is_of_one_ledger(layout: SpoolLayout, extent: tuple[int, int]) -> None:
    assert note_all_listed(layout, EXTENT)
    assert not take_note(layout, extent)


def test_what_is_left_of_it_after_a_fault_counts_for_nothing(layout: SpoolLayout) -> None:
    assert note_all_listed(layout, EXTENT)
    whole = (layout.root / NOTE).read_bytes()
    for damaged in [whole[:length] for length in range(0, len(whole), 37)] + [
        b"\xff" * 9,
        b"null",
        whole + b"\0",
    ]:
        (layout.root / NOTE).write_bytes(damaged)
        assert not take_note(layout, EXTENT)
        assert not (layout.root / NOTE).exists()


def test_a_folder_that_changed_just_now_is_not_vouched_for(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orderly, "_TICK_NS", 3_600_000_000_000)

    assert not note_all_listed(layout, EXTENT)
    assert not (layout.root / NOTE).exists()


def test_a_disk_that_refuses_stops_nobody(layout: SpoolLayout) -> None:
    shutil.rmtree(layout.incoming)

    assert not note_all_listed(layout, EXTENT)
    assert not take_note(layout, EXTENT)
