"""The studies of public field reports (../shared/cases/make_cases.py), which are not part of the checkout."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

Case = Callable[[str], list[Dataset]]


def load_cases(repo_root: Path) -> dict[str, Case]:
    """Return name -> maker of the study; skips where the script is not there."""
    path = repo_root.parent / "shared" / "cases" / "make_cases.py"
    if not path.exists():
        pytest.skip("the studies of the field reports (../shared/cases) are not on this machine")
    spec = importlib.util.spec_from_file_location("make_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.CASES)


# The images of many cases are the same. In one frame of reference the node's cache knows them again.
FRAME_OF_REFERENCE = "2.25.20261129"


def write_case(case: Case, name: str, folder: Path) -> list[Path]:
    """Write a case's study as files, as the script does, in one frame of reference; return their paths."""
    return write_study(case(name), folder)


def write_study(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write instances as numbered files, in one frame of reference."""
    folder.mkdir(parents=True)
    paths = []
    for index, dataset in enumerate(datasets):
        dataset.FrameOfReferenceUID = FRAME_OF_REFERENCE
        paths.append(folder / f"{index:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths
