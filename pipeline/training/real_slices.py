"""Real FLAIR slices with stroke outlines: who may be trained on, and the slices as the networks see them.

A folder of slices holds `axial.npz`, `coronal.npz` and `sagittal.npz`. Each has `image` (person, row, column)
uint8 (0 outside the brain), `mask` (the same shape, bool) and `subject` (the person's number). Rows and
columns run as in the pictures of the data set: rows from anterior to posterior or from superior to inferior,
columns from left to right or from posterior to anterior.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.training.network import PLANES
from pipeline.training.problem import TrainingProblem

Split = Literal["train", "decide", "test"]
SPLITS: tuple[Split, ...] = ("train", "decide", "test")
_TENTHS: tuple[Split, ...] = (*(("train",) * 8), "decide", "test")
# From the pictures' directions to ours: rows to posterior or to the head, columns to the left or to
# posterior.
_FLIPS = {"axial": (1,), "coronal": (0, 1), "sagittal": (0, 1)}


class SliceError(TrainingProblem):
    """A folder of slices cannot be used."""


def split_of(subject: int) -> Split:
    """Return the split of a person, from a hash of the number alone: 80 % train, 10 % decide, 10 % test."""
    return _TENTHS[int(hashlib.sha256(f"person {subject}".encode()).hexdigest(), 16) % 10]


@dataclass(frozen=True, eq=False)
class RealSlice:
    """One slice of one person.

    Attributes
    ----------
    image
        (row, column) float32 in the directions of a volume's slices, divided by the person's brain median, 0
        outside the brain, not clipped.
    mask
        (row, column) bool: the outline of the stroke.
    """

    plane: str
    subject: int
    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


def read_slices(folder: Path, split: Split | Literal["all"] = "all") -> list[RealSlice]:
    """Read the slices of the people of one split, plane by plane.

    The brain median is that of all slices of a person together: the whole volume's is not known.

    Raises
    ------
    SliceError
        A file is missing, damaged or of another form, or a person stands in it twice.
    """
    planes = {plane: _read_plane(folder / f"{plane}.npz") for plane in PLANES}
    values: dict[int, list[npt.NDArray[np.uint8]]] = {}
    for images, _, subjects in planes.values():
        for image, subject in zip(images, subjects.tolist(), strict=True):
            values.setdefault(subject, []).append(image[image > 0])
    medians = {
        subject: float(np.median(np.concatenate(parts))) if sum(map(len, parts)) else 0.0
        for subject, parts in values.items()
    }
    slices = []
    for plane, (images, masks, subjects) in planes.items():
        for image, mask, subject in zip(images, masks, subjects.tolist(), strict=True):
            if medians[subject] > 0 and split in ("all", split_of(subject)):
                scaled = np.flip(image, _FLIPS[plane]).astype(np.float32) / medians[subject]
                slices.append(
                    RealSlice(plane, subject, scaled, np.ascontiguousarray(np.flip(mask, _FLIPS[plane])))
                )
    if not slices:
        raise SliceError(f"{folder} holds no slice of a person of the split {split!r}")
    return slices


def maps_of(split: Split, maps: list[Path], subjects: set[int]) -> list[Path]:
    """Return the lesion maps of the people of one split: `subjects` of the slice files.

    Maps of people without slices are kept out: they are measured elsewhere.
    """
    return [path for path in maps if (subject := subject_of(path)) in subjects and split_of(subject) == split]


def subject_of(path: Path) -> int:
    """Return the number in a map's file name (`bwsrsub-1000_lesion.nii.gz`); -1 where there is none."""
    digits = "".join(character for character in path.name.partition("_")[0] if character.isdigit())
    return int(digits) if digits else -1


def subjects_of(folder: Path) -> set[int]:
    """Return the numbers of all people in a folder of slices."""
    return {int(subject) for plane in PLANES for subject in _read_plane(folder / f"{plane}.npz")[2]}


def _read_plane(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    try:
        with path.open("rb") as stream, np.load(stream) as arrays:
            image, mask, subject = arrays["image"], arrays["mask"], arrays["subject"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise SliceError(f"{path} cannot be read as slices with image, mask and subject: {problem}") from None
    if (
        image.ndim != 3
        or image.dtype != np.uint8
        or mask.shape != image.shape
        or subject.shape != image.shape[:1]
    ):
        raise SliceError(
            f"{path}: image {image.dtype} {image.shape}, mask {mask.shape} and subject {subject.shape} "
            "do not belong together: needed are "
            "uint8 (person, row, column), a mask of the same shape, and one number a person"
        )
    try:
        subject = subject.astype(np.int64)
    except ValueError:
        raise SliceError(
            f"{path}: a subject is no number; people are known by the number in their maps' file names"
        ) from None
    numbers, counts = np.unique(subject, return_counts=True)
    if (counts > 1).any():
        raise SliceError(f"{path}: person {int(numbers[counts > 1][0])} stands in it twice")
    return image, mask.astype(bool), subject
