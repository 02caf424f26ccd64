"""A disk with far more room than is asked for is asked seldom, one near its mark each time."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicomnode.errors import OutOfResources
from dicomnode.spool import space as module
from dicomnode.spool.space import FreeSpace

GIB, MARK = 2**30, 2**30


def test_a_disk_near_its_mark_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, moments = [9 * GIB], [0.0]
    asked: list[int] = []

    def statvfs(_folder: object) -> SimpleNamespace:
        asked.append(answers[-1])
        return SimpleNamespace(f_bavail=answers[-1] // 4096, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(module.time, "monotonic", lambda: moments[-1])
    space = FreeSpace(tmp_path, MARK)

    for _ in range(3):
        space.require(GIB)
    assert len(asked) == 1
    # Asked again after a moment, and for so much that what was free might not do.
    moments.append(0.06)
    space.require(GIB)
    space.require(7 * GIB + 1)
    assert len(asked) == 3

    answers.append(MARK + 8192)
    moments.append(0.2)
    space.require(8192)
    for _ in range(2):
        with pytest.raises(OutOfResources):
            space.require(8193)
    assert len(asked) == 6
