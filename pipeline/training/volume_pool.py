"""Synthetic volumes at 1 mm on disk, 8 bit a voxel, from which the planes draw their slices.

Generators fill it, the trainer reads along.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.training.problem import TrainingProblem
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.synthesis.subject import INTENSITY_CEILING, Case, synthesise_acute_case

_STEPS = 255.0 / INTENSITY_CEILING


@dataclass(frozen=True)
class VolumePool:
    """A folder of volumes, each in a file of its own.

    A volume is one array of uint8: T1, FLAIR, label; slice, row, column.
    """

    folder: Path

    def write(self, number: int, case: Case) -> None:
        """Store one volume; a reader sees the whole file or none.

        Raises
        ------
        TrainingProblem
            It cannot be written, as on a full disk.
        """
        packed = torch.cat(((case.image * _STEPS).round(), case.label[None].float())).to(torch.uint8).numpy()
        target = self.path_of(number)
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                np.save(stream, packed)
            part.replace(target)
        except OSError as problem:
            part.unlink(missing_ok=True)
            raise TrainingProblem(
                f"{target} could not be written: {problem.strerror}. A volume takes 15 MB"
            ) from None

    def path_of(self, number: int) -> Path:
        """Return where the volume of this number stands."""
        return self.folder / f"volume-{number:06d}.npy"

    def paths(self) -> list[Path]:
        """Return the volumes that are there."""
        return sorted(self.folder.glob("volume-*.npy"))


def fill_volumes(
    pool: VolumePool, first_seed: int, count: int, maps: Sequence[Path], *, stride: int = 1
) -> None:
    """Make the volumes of the seeds first_seed, first_seed + stride, ...

    That are not there yet, until `count` seeds are done.
    """
    torch.set_num_threads(1)
    anatomy = load_anatomy()
    for seed in range(first_seed, first_seed + count * stride, stride):
        if not pool.path_of(seed).exists():
            pool.write(seed, synthesise_acute_case(anatomy, seed, maps))


def open_volume(path: Path) -> npt.NDArray[np.uint8]:
    """Return (T1, FLAIR, label; slice, row, column), mapped: only the slices that are read leave the disk."""
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def scale_volume(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the stored image channels as multiples of the brain's median."""
    return packed.astype(np.float32) / _STEPS
