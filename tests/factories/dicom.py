"""Small studies with a known answer: a phantom head whose lesions have known place and volume, seen in any orientation.

The phantom is a function of patient coordinates, so every series of it, whatever its plane, shows the same head without resampling.
It is asymmetric along every axis: the brain is not centred in the head, the marker lies on the left only, and the lesions differ in
size and place, so that a flip or a swap of axes cannot go unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicomnode.records import Role
from dicomnode.simulator.author import Patient, author_series, derive_uid, stack_affine, write_series
from dicomnode.simulator.enhanced import author_enhanced

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Blob:
    """An ellipsoid: centre and half axes in LPS mm."""

    center_mm: tuple[float, float, float]
    half_axes_mm: tuple[float, float, float]

    @property
    def volume_mm3(self) -> float:
        """Exact volume."""
        return float(4 / 3 * np.pi * np.prod(self.half_axes_mm))

    def contains(self, points_mm: Array) -> Array:
        """Return whether each point (..., 3), LPS mm, lies inside."""
        inside: Array = (((points_mm - self.center_mm) / self.half_axes_mm) ** 2).sum(axis=-1) <= 1
        return inside


HEAD = Blob((0, 0, 0), (75, 92, 88))
BRAIN = Blob((1, -3, 6), (64, 80, 68))
VENTRICLES = Blob((-1, -4, 8), (14, 28, 12))
LEFT_MARKER = Blob((48, -22, 4), (5, 5, 5))
LESIONS = (Blob((30, 20, 22), (12, 14, 10)), Blob((-34, -28, 10), (7, 9, 8)))

# Stored value of (air, scalp, brain, ventricles, marker, lesion): CSF is dark on both, lesions dark on T1 and bright on FLAIR.
_VALUES: dict[Role, tuple[int, int, int, int, int, int]] = {
    "t1": (0, 900, 1500, 400, 2100, 800),
    "flair": (0, 700, 1100, 250, 1800, 2400),
}


def voxel_centres(affine: Array, shape: Sequence[int]) -> Array:
    """Return (slice, row, column, 3): the LPS mm of every voxel's centre."""
    indices = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    centres: Array = indices @ affine[:3, :3].T + affine[:3, 3]
    return centres


def paint_head(affine: Array, shape: Sequence[int], role: Role, lesions: Sequence[Blob] = LESIONS) -> Array:
    """Return (slice, row, column) uint16: the phantom as this role shows it."""
    points_mm = voxel_centres(affine, shape)
    image = np.full(tuple(shape), _VALUES[role][0], dtype=np.uint16)
    layers = [(HEAD,), (BRAIN,), (VENTRICLES,), (LEFT_MARKER,), tuple(lesions)]
    for blobs, value in zip(layers, _VALUES[role][1:], strict=True):
        for blob in blobs:
            image[blob.contains(points_mm)] = value
    # A faint gradient along each axis in patient space: no two octants are alike.
    shading = 1 + points_mm @ np.array([0.0004, 0.0008, 0.0012])
    shaded: Array = np.rint(image * shading).astype(np.uint16)
    return shaded


def lesion_mask(affine: Array, shape: Sequence[int], lesions: Sequence[Blob] = LESIONS) -> Array:
    """Return (slice, row, column) uint16: 0, or 1 + the place of the lesion in `lesions`."""
    points_mm = voxel_centres(affine, shape)
    labels = np.zeros(tuple(shape), dtype=np.uint16)
    for label, blob in enumerate(lesions, start=1):
        labels[blob.contains(points_mm)] = label
    return labels


@dataclass(frozen=True, eq=False)
class PhantomSeries:
    """One series of the phantom: what was painted, where, and the instances that carry it (in the order of axis 0)."""

    role: Role
    array: Array
    affine: Array
    truth: Array
    instances: list[Dataset]


@dataclass(frozen=True, eq=False)
class PhantomStudy:
    """A T1 and a FLAIR of the same head; a role that was not asked for is absent."""

    study_uid: str
    frame_of_reference_uid: str
    lesions: tuple[Blob, ...]
    series: dict[Role, PhantomSeries]

    @property
    def instances(self) -> list[Dataset]:
        """All instances, series after series."""
        return [instance for series in self.series.values() for instance in series.instances]

    def write(self, folder: Path) -> list[Path]:
        """Write every series below `folder/<role>` and return the paths."""
        return [
            path
            for role, series in self.series.items()
            for path in write_series(series.instances, folder / role)
        ]


def phantom_series(
    role: Role,
    *,
    study_uid: str,
    frame_of_reference_uid: str,
    plane: str = "axial",
    shape: Sequence[int] = (64, 64, 64),
    spacing_mm: Sequence[float] = (3.0, 3.0, 3.0),
    lesions: Sequence[Blob] = LESIONS,
    tilt_deg: float = 0.0,
    reverse: bool = False,
    multiframe: bool = False,
    **author: Any,
) -> PhantomSeries:
    """Return one series of the phantom, as classic instances or as one enhanced instance.

    `author` goes to `author_series` or `author_enhanced` (patient, series_number, seed, overrides, ...).
    """
    affine = stack_affine(plane, shape, spacing_mm, center_mm=(2, -1, 3), tilt_deg=tilt_deg, reverse=reverse)
    array = paint_head(affine, shape, role, lesions)
    author.update(role=role, study_uid=study_uid, frame_of_reference_uid=frame_of_reference_uid)
    instances = (
        [author_enhanced(array, affine, **author)] if multiframe else author_series(array, affine, **author)
    )
    return PhantomSeries(role, array, affine, lesion_mask(affine, shape, lesions), instances)


def phantom_study(
    seed: object = 0,
    *,
    roles: Sequence[Role] = ("t1", "flair"),
    lesions: Sequence[Blob] = LESIONS,
    patient: Patient | None = None,
    t1: dict[str, Any] | None = None,
    flair: dict[str, Any] | None = None,
) -> PhantomStudy:
    """Return a study of the phantom, by default a sagittal 3 mm T1 and an axial FLAIR of 6 mm slices.

    `t1` and `flair` are keyword arguments for `phantom_series`; two seeds give two studies.
    """
    study_uid, frame_of_reference_uid = derive_uid("study", seed), derive_uid("frame of reference", seed)
    settings: dict[Role, dict[str, Any]] = {
        "t1": {"plane": "sagittal", "series_number": 2, **(t1 or {})},
        "flair": {
            "plane": "axial",
            "series_number": 3,
            "shape": (32, 64, 64),
            "spacing_mm": (6.0, 3.0, 3.0),
            **(flair or {}),
        },
    }
    series = {
        role: phantom_series(
            role,
            study_uid=study_uid,
            frame_of_reference_uid=frame_of_reference_uid,
            lesions=lesions,
            patient=patient or Patient(PatientID=f"SIM-{seed}"),
            **settings[role],
        )
        for role in roles
    }
    return PhantomStudy(study_uid, frame_of_reference_uid, tuple(lesions), series)
