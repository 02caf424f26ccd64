"""Samples on disk between the generator processes and the trainer.

They form a ring of files, each reused a few times.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.training.bounds import VALIDATION_SEED
from pipeline.training.problem import TrainingProblem
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.synthesis.subject import Case
from pipeline.training.tasks import Task


@dataclass(frozen=True)
class Pool:
    """A folder of at most `capacity` samples; writers replace the oldest, the reader draws any."""

    folder: Path
    capacity: int = 480

    def write(self, number: int, case: Case) -> None:
        """Store one sample; a reader sees the whole file or the one before.

        Raises
        ------
        TrainingProblem
            It cannot be written, as on a full disk.
        """
        target = self.folder / f"sample-{number % self.capacity:05d}.npz"
        partial_file = target.with_suffix(f".{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial_file.open("wb") as stream:
                arrays: dict[str, Any] = {
                    "image": case.image.numpy().astype(np.float16),
                    "label": case.label.numpy(),
                }
                np.savez(stream, **arrays | ({} if case.shown is None else {"shown": case.shown.numpy()}))
            partial_file.replace(target)
        except OSError as problem:
            partial_file.unlink(missing_ok=True)
            raise TrainingProblem(
                f"{target} could not be written: {problem.strerror}. A full pool takes {self.capacity} x 3 MB"
            ) from None

    def paths(self) -> list[Path]:
        """Return the samples that are there."""
        return sorted(self.folder.glob("sample-*.npz"))

    def note_consumed(self, steps: int) -> None:
        """Tell the generators how many samples the trainer has used."""
        partial_file = self.folder / "consumed.part"
        partial_file.write_text(str(steps))
        partial_file.replace(self.folder / "consumed")

    def consumed(self) -> int:
        """Return what the trainer noted last."""
        path = self.folder / "consumed"
        return int(path.read_text()) if path.exists() else 0


def read_sample(path: Path) -> tuple[Tensor, Tensor]:
    """Return image (channel, slice, row, column) and label (slice, row, column), both float32."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["image"].astype(np.float32)), torch.from_numpy(arrays["label"]).float()


def read_shown(path: Path) -> Tensor | None:
    """Return where the lesions of a sample show, bool (channel, slice, row, column).

    The result is None for a sample that was made without that comparison.
    """
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["shown"]) if "shown" in arrays else None


def fill_pool(
    pool: Pool,
    task: Task,
    first_seed: int,
    maps: Sequence[Path],
    *,
    count: int | None = None,
    stride: int = 1,
    reuse: float = 1.0,
) -> None:
    """Make samples until `count` is reached, or for ever, waiting while far ahead of the trainer.

    Sample number i is made from seed `first_seed + i * stride`, so several processes can share one sequence.
    The trainer takes each sample `reuse` times on average when the generators can keep up.
    """
    torch.set_num_threads(1)
    anatomy = load_anatomy()
    start, free = pool.consumed(), pool.capacity - len(pool.paths())
    numbers = itertools.count() if count is None else range(count)
    for number in numbers:
        while count is None and number >= (free + (pool.consumed() - start) / reuse) / stride:
            time.sleep(0.5)
        seed = first_seed + number * stride
        if seed >= VALIDATION_SEED:
            raise TrainingProblem(
                f"the seed {seed} belongs to the validation subjects, which begin at {VALIDATION_SEED}: "
                "start with a smaller seed"
            )
        pool.write(number * stride + first_seed % stride, task.synthesise(anatomy, seed, maps))


def write_validation_set(
    folder: Path, task: Task, count: int, maps: Sequence[Path], first: int = 0
) -> list[Path]:
    """Make the fixed validation samples that are not there yet and return all of them.

    They say where their lesions show.
    """
    pool = Pool(folder, capacity=1_000_000)
    missing = [n for n in range(first, first + count) if not (folder / f"sample-{n:05d}.npz").exists()]
    if missing:
        anatomy = load_anatomy()
        for number in missing:
            pool.write(number, task.synthesise(anatomy, VALIDATION_SEED + number, maps, compared=True))
    return [folder / f"sample-{n:05d}.npz" for n in range(first, first + count)]
