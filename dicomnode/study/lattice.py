"""Evenly spaced slices.

How far the positions that headers give may lie from it, and the lattice fitted through all of them.

Scanners round Image Position (Patient): to a hundredth, a tenth, some to half a millimetre. A lattice that is
fitted through every position by least squares averages that out; the line from the first to the last slice
would carry the error of two of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RELATIVE_TOLERANCE = 0.05
ABSOLUTE_TOLERANCE_MM = 0.1
"""A slice may lie 5 % of the spacing and 0.1 mm from its place.

What dicom2nifti allows (`common.validate_slice_increment`).
"""
LARGEST_SHARE = 0.25
"""Of the spacing: no rounding allows more, or a slice might be taken for its neighbour."""
PERPENDICULAR_TOLERANCE = 1e-3
"""Largest 1 - cosine between the stack's line and the slice normal.

Beyond it the stack is sheared (gantry tilt).
"""
EXACT_MM = 0.01
"""Positions this near to the lattice are left as the headers give them."""
_STEPS_MM = (0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Evenly spaced positions, one a slice.

    Attributes
    ----------
    positions
        (n, 3) LPS mm.
    spacing_mm
        Distance of neighbours along the normal.
    along_mm, aside_mm
        Largest distance of a header's position from its place, along the normal and within the plane.
    tolerance_mm, aside_tolerance_mm
        What is allowed of each.
    cosine
        Of the angle between the line through the positions and the normal.
    """

    positions: Vector
    spacing_mm: float
    along_mm: float
    aside_mm: float
    tolerance_mm: float
    aside_tolerance_mm: float
    cosine: float

    @property
    def fits(self) -> bool:
        """Whether every position lies where the lattice has a slice, as far as rounding lets it."""
        return self.along_mm <= self.tolerance_mm and self.aside_mm <= self.aside_tolerance_mm

    @property
    def is_sheared(self) -> bool:
        """Whether the slices are shifted against each other (gantry tilt)."""
        return 1 - self.cosine > PERPENDICULAR_TOLERANCE


def fit_lattice(positions: Vector, normal: Vector) -> Lattice:
    """Fit evenly spaced positions through those of at least two slices, sorted along the normal.

    The line is the slice normal where every position fits to that, else the line that fits best.

    Parameters
    ----------
    positions
        (n, 3) LPS mm.
    normal
        Unit vector.
    """
    number = np.arange(len(positions)) - (len(positions) - 1) / 2
    middle = positions.mean(axis=0)
    # Least squares of position = middle + number * step, with the numbers centred: the slope of each
    # coordinate.
    step = number @ positions / float(number @ number)
    spacing_mm = float(step @ normal)
    rounding_mm = find_rounding_mm(positions)
    # Rounding moves each of three coordinates by up to half a step, and the fitted line by as much again
    # where it moves many in one direction.
    tolerance_mm = max(
        ABSOLUTE_TOLERANCE_MM + RELATIVE_TOLERANCE * spacing_mm, rounding_mm * float(np.abs(normal).sum())
    )
    aside_tolerance_mm = max(ABSOLUTE_TOLERANCE_MM, rounding_mm / 2 * np.sqrt(3) * 1.1)
    cosine = abs(spacing_mm) / max(float(np.linalg.norm(step)), 1e-12)
    along = _measure(positions, middle + np.outer(number, spacing_mm * normal), normal)
    free = _measure(positions, middle + np.outer(number, step), normal)
    upright = along[1] <= aside_tolerance_mm
    fitted = middle + np.outer(number, spacing_mm * normal if upright else step)
    along_mm, aside_mm = along if upright else free
    limit_mm = LARGEST_SHARE * abs(spacing_mm)
    return Lattice(
        fitted, spacing_mm, along_mm, aside_mm, min(tolerance_mm, limit_mm), float(aside_tolerance_mm), cosine
    )


def find_rounding_mm(positions: Vector) -> float:
    """Return the largest step of which every coordinate is a multiple; 0 where there is none.

    >>> find_rounding_mm(np.array([[0.5, 1.0, -2.0], [0.5, 1.0, 1.5]]))
    0.5
    """
    for step_mm in _STEPS_MM:
        if np.abs(positions / step_mm - np.rint(positions / step_mm)).max() < 1e-6 / step_mm:
            return step_mm
    return 0.0


def place_on_lattice(positions: Vector, normal: Vector) -> Vector:
    """Return evenly spaced positions; those of the headers where they are even already (0.01 mm)."""
    even = np.linspace(positions[0], positions[-1], len(positions))
    if float(np.linalg.norm(positions - even, axis=1).max()) <= EXACT_MM:
        return positions
    return fit_lattice(positions, normal).positions


def find_off_lattice(positions: Vector, normal: Vector, largest_share: float) -> tuple[int, ...]:
    """Return the indices of the few slices that keep the others from being evenly spaced.

    Empty where there are none, or more of them than `largest_share` of the slices (at least one is allowed).

    Parameters
    ----------
    positions
        (n, 3) LPS mm, sorted along the normal.
    """
    if fit_lattice(positions, normal).fits:
        return ()
    offsets = positions @ normal
    distances = np.diff(offsets)
    nearest_mm = float(np.median(distances))
    if nearest_mm <= EXACT_MM:
        return ()
    allowed = max(1, int(largest_share * len(positions)))
    best: tuple[int, ...] = tuple(range(len(positions)))
    starts = np.flatnonzero(
        np.abs(distances - nearest_mm) <= ABSOLUTE_TOLERANCE_MM + RELATIVE_TOLERANCE * nearest_mm
    )
    # Rounding shifts the distance of neighbours; over a quarter of the stack little of that is left.
    lag = max(1, len(positions) // 4)
    for spacing_mm in (float(np.median((offsets[lag:] - offsets[:-lag]) / lag)), nearest_mm):
        for start in starts:
            off = _off_line(positions, normal, int(start), spacing_mm)
            # The slices do not fit, so a line on which all lie allows too much.
            best = off if 0 < len(off) < len(best) else best
    return best if len(best) <= allowed else ()


def _off_line(positions: Vector, normal: Vector, start: int, spacing_mm: float) -> tuple[int, ...]:
    """Return which slices leave the line and the distances that two neighbours begin.

    They are looked at one by one.
    """
    relative = positions - positions[start]
    number = relative @ normal / spacing_mm
    tolerance_mm = ABSOLUTE_TOLERANCE_MM + RELATIVE_TOLERANCE * spacing_mm + find_rounding_mm(positions)
    # A spacing that is a little wrong adds up over the stack, so what is allowed grows with the distance.
    allowed_mm = np.minimum(tolerance_mm + 0.005 * np.abs(relative @ normal), LARGEST_SHARE * spacing_mm)
    along_mm = np.abs(number - np.rint(number)) * spacing_mm
    step = positions[start + 1] - positions[start]
    aside_mm = np.linalg.norm(relative - np.outer(number, step), axis=1)
    return tuple(
        int(index)
        for index in np.flatnonzero(
            (along_mm > allowed_mm) | (aside_mm > 1.0 + 0.02 * np.abs(relative @ normal))
        )
    )


def _measure(positions: Vector, fitted: Vector, normal: Vector) -> tuple[float, float]:
    """Return the largest deviation along the normal and across it, mm."""
    deviation = positions - fitted
    along = deviation @ normal
    return float(np.abs(along).max()), float(
        np.linalg.norm(deviation - np.outer(along, normal), axis=1).max()
    )
