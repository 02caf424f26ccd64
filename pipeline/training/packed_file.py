"""Arrays in one compressed file: written whole or not at all, and read with a sentence when it is damaged."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.training.problem import TrainingProblem


def write_packed(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write next to `path`, then rename: what was there before stays until the new file is whole.

    Raises
    ------
    TrainingProblem
        It cannot be written (the disk is full, say).
    """
    partial_file = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        partial_file.replace(path)
    except OSError as problem:
        partial_file.unlink(missing_ok=True)
        raise TrainingProblem(f"{path} could not be written: {problem.strerror or problem}") from None


def read_packed(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Return the arrays of these names.

    Raises
    ------
    TrainingProblem
        The file cannot be read, or lacks one of them.
    """
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as problem:
        raise TrainingProblem(
            f"{path} cannot be read: {problem}; write it again with `python -m pipeline.training pack`"
        ) from None
