"""The committed synthetic study at half its resolution: still a head that the bundled networks read, in about two seconds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from dicomnode.commands.demo import DEMO_STUDY
from dicomnode.records import Role
from dicomnode.simulator.author import author_series, derive_uid

Array = npt.NDArray[Any]

# Voxels that become one along (slice, row, column): 3 mm T1; FLAIR of 2.5 mm pixels in slices as thick as they were.
_FACTORS: dict[Role, tuple[int, int, int]] = {"t1": (2, 2, 2), "flair": (1, 2, 2)}
_NUMBERS: dict[Role, int] = {"t1": 1, "flair": 2}


@functools.cache
def head_volume(role: Role) -> tuple[Array, Array]:
    """Return (slice, row, column) uint16 and its affine, index to LPS mm."""
    with np.load(DEMO_STUDY) as study:
        array, affine = study[role], study[f"{role}_affine"].copy()
    factors = _FACTORS[role]
    cropped = array[
        tuple(slice(size // factor * factor) for size, factor in zip(array.shape, factors, strict=True))
    ]
    blocks = cropped.reshape(
        [n for size, factor in zip(cropped.shape, factors, strict=True) for n in (size // factor, factor)]
    )
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return np.rint(blocks.mean(axis=(1, 3, 5))).astype(np.uint16), affine


def head_series(role: Role, study: object, **author: Any) -> list[Dataset]:
    """Return the instances of one series of the head; `study` names the study, `author` goes to `author_series`."""
    array, affine = head_volume(role)
    uid = study_uid(study)
    settings = {
        "series_number": _NUMBERS[role],
        "frame_of_reference_uid": derive_uid(uid, "frame of reference"),
        **author,
    }
    return author_series(array, affine, role=role, study_uid=uid, **settings)


def head_study(study: object, roles: Sequence[Role] = ("t1", "flair"), **author: Any) -> list[Dataset]:
    """Return the instances of a study, series after series."""
    return [instance for role in roles for instance in head_series(role, study, **author)]


def study_uid(study: object) -> str:
    """Return the Study Instance UID of the study of this name."""
    return derive_uid("head", study)
