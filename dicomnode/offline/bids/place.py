"""A case is made in a folder beside the dataset and moved into it as a whole.

A stopped run leaves no half cases.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomnode.offline.bids.names import CaseLabel

_PARTIAL = ".partial"


@contextmanager
def case_folder(output: Path, label: CaseLabel) -> Iterator[Path]:
    """Give an empty folder that becomes `sub-...[/ses-...]` of the dataset.

    One that stays empty leaves none, also none of an earlier run.
    """
    partial, target = output / _PARTIAL / label.stem, output / label.folder
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if target.exists():
        shutil.rmtree(target)
    if any(partial.iterdir()):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)
    else:
        partial.rmdir()
        if target.parent != output and target.parent.is_dir() and not any(target.parent.iterdir()):
            target.parent.rmdir()


def clear(folder: Path) -> None:
    """Empty a folder that `case_folder` gave."""
    shutil.rmtree(folder)
    folder.mkdir()


def remove_partial(output: Path) -> None:
    """Remove what a stopped run left beside the dataset."""
    shutil.rmtree(output / _PARTIAL, ignore_errors=True)


def replace_file(path: Path, text: str) -> None:
    """Write a file of the dataset as a whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
