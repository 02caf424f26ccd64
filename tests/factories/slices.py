"""Made slices of the form of real ones: a round brain, a bright lesion in some people, and a mark in front, on the left and at the top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

SHAPES = {"axial": (189, 157), "coronal": (136, 157), "sagittal": (136, 189)}
"""Rows and columns of the data set's pictures: rows to posterior or downwards, columns to the right or to anterior."""
GREY = 100
_MARKS = {"axial": (0.25, 0.25), "coronal": (0.25, 0.25), "sagittal": (0.25, 0.75)}
"""Row and column of the mark, as a share of the picture."""


def write_slices(folder: Path, people: Sequence[int], *, seed: int = 0) -> Path:
    """Write axial.npz, coronal.npz and sagittal.npz and return the folder; two of three people have a lesion in a slice."""
    generator = np.random.default_rng(seed)
    for plane, (rows, columns) in SHAPES.items():
        row, column = np.mgrid[:rows, :columns]
        brain = ((row - rows / 2) / (0.45 * rows)) ** 2 + ((column - columns / 2) / (0.45 * columns)) ** 2 < 1
        mark = _disc(row, column, _MARKS[plane][0] * rows, _MARKS[plane][1] * columns, 4)
        images, masks = [], []
        for person in people:
            lesion = _disc(
                row,
                column,
                rows * generator.uniform(0.4, 0.65),
                columns * generator.uniform(0.4, 0.7),
                generator.uniform(6, 16),
            )
            lesion &= brain & ~mark & (person % 3 != 0)
            image = np.where(lesion, 1.8 * GREY, np.where(mark, 2.4 * GREY, GREY)) + generator.normal(
                0, 4, (rows, columns)
            )
            images.append((image * brain).clip(0, 255).astype(np.uint8))
            masks.append(lesion)
        np.savez(
            folder / f"{plane}.npz",
            image=np.stack(images),
            mask=np.stack(masks),
            subject=np.array([str(person) for person in people]),
        )
    return folder


def _disc(
    row: np.ndarray, column: np.ndarray, centre_row: float, centre_column: float, radius: float
) -> np.ndarray:
    return (row - centre_row) ** 2 + (column - centre_column) ** 2 < radius**2
