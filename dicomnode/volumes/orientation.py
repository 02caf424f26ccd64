"""One orientation for a stack whose headers jitter.

Averaged, made perpendicular, and turned to the line the slices lie on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicomnode.study.stacks import Stack

Vector = npt.NDArray[np.float64]

_EXACT = 1e-7
_UNIT = 1e-5


def common_orientation(stack: Stack) -> tuple[float, ...]:
    """Return the six direction cosines that stand for all slices of a stack.

    Slices that agree and are perpendicular unit vectors keep their cosines as they are. Otherwise the mean is
    taken. Slice positions span more than 80 mm, so the line through them gives the normal more precisely than
    jittering cosines do; the mean is turned onto it. `choose_stack` and `regularity_findings` bound both
    corrections by 1e-3 and by the perpendicular tolerance.
    """
    orientations = np.array([item.orientation for item in stack.slices], dtype=np.float64)
    if float(np.ptp(orientations, axis=0).max()) <= _EXACT and _is_clean(orientations[0]):
        return tuple(float(value) for value in orientations[0])
    mean = orientations.mean(axis=0)
    row, column = _turned(_unit(mean[:3]), _unit(mean[3:]), stack)
    row = _unit(row)
    column = _unit(column - row * float(row @ column))
    return (*(float(value) for value in row), *(float(value) for value in column))


def _turned(row: Vector, column: Vector, stack: Stack) -> tuple[Vector, Vector]:
    """Project both directions onto the plane perpendicular to the line of the slices."""
    if len(stack.slices) < 2:
        return row, column
    # The line that fits best through all positions: two rounded ones would tilt it.
    number = np.arange(len(stack.slices)) - (len(stack.slices) - 1) / 2
    line = _unit(number @ stack.positions)
    return row - line * float(line @ row), column - line * float(line @ column)


def _is_clean(orientation: Vector) -> bool:
    row, column = orientation[:3], orientation[3:]
    deviations = abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column)
    return max(float(value) for value in deviations) <= _UNIT


def _unit(vector: Vector) -> Vector:
    unit: Vector = vector / np.linalg.norm(vector)
    return unit
