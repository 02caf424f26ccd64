"""From a series' frames to the one stack of slices that can become a volume, or the named reason why there is none.

A series may hold several echoes, volumes, orientations, repeats and magnitude beside phase. They are told apart by what
the headers say, never by the order in which instances came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.records import Finding, IndexedInstance, InstanceHeader, Series

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines within one stack."""
PERPENDICULAR_TOLERANCE = 1e-3
"""Largest 1 - cosine between the stack's line and the slice normal: beyond it the stack is sheared (gantry tilt)."""

_NOT_MAGNITUDE = frozenset({"P", "R", "I", "PHASE", "PHASE MAP", "REAL", "IMAGINARY"})

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """One frame of a series; `frame_number` counts from 1."""

    instance: IndexedInstance
    frame_number: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Stack:
    """Parallel slices sorted along their normal (cross product of row and column direction), ascending.

    `offsets_mm` are the positions along the normal; `spacing_mm` is their median distance.
    """

    slices: tuple[Slice, ...]
    normal: Vector
    offsets_mm: Vector

    @property
    def spacing_mm(self) -> float:
        """Median distance of neighbouring slices."""
        return float(np.median(np.diff(self.offsets_mm))) if len(self.slices) > 1 else 0.0

    @property
    def coverage_mm(self) -> float:
        """How far the slices reach along the normal, half a spacing beyond the outer ones included."""
        return float(self.offsets_mm[-1] - self.offsets_mm[0]) + self.spacing_mm

    @property
    def positions(self) -> Vector:
        """(n, 3) LPS mm of the first pixel's centre of each slice."""
        return np.array([item.position for item in self.slices], dtype=np.float64)

    @property
    def tolerance_mm(self) -> float:
        """How much two slice distances may differ and still count as equal."""
        return max(0.02, 0.01 * self.spacing_mm)


@dataclass(frozen=True, eq=False)
class StackChoice:
    """The stack that stands for a series, and the findings on the way; None when there is none."""

    stack: Stack | None
    findings: tuple[Finding, ...]


def list_slices(series: Series) -> tuple[Slice, ...]:
    """Return every frame of a series that has a position and an orientation."""
    slices = []
    for instance in series.instances:
        header = instance.header
        for index, (position, orientation) in enumerate(zip(header.positions, header.orientations, strict=False)):
            slices.append(Slice(instance, index + 1, position, orientation))
    return tuple(slices)


def frame_count(series: Series) -> int:
    """Return how many frames the instances of a series say they have."""
    return sum(max(1, instance.header.NumberOfFrames) for instance in series.instances)


def build_stack(slices: Sequence[Slice]) -> Stack:
    """Sort slices of one orientation along their normal; the normal is that of the mean orientation."""
    orientation = np.mean([item.orientation for item in slices], axis=0)
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= max(float(np.linalg.norm(normal)), 1e-9)
    offsets = np.array([float(np.dot(item.position, normal)) for item in slices])
    order = sorted(range(len(slices)), key=lambda index: (offsets[index], slices[index].instance.header.SOPInstanceUID))
    return Stack(tuple(slices[index] for index in order), normal, offsets[order])


def choose_stack(series: Series) -> StackChoice:
    """Find the stack of slices that stands for a series, or say by name why there is none.

    A stack acquired twice is settled by Acquisition Number: the last acquisition that covers every position is taken.
    """
    slices = list_slices(series)
    refusal = _missing_geometry(series, slices) or _not_one_grid(series)
    if refusal is not None:
        return StackChoice(None, (refusal,))
    slices = _magnitude_only(slices)
    refusal = _several_groups(slices) or _several_orientations(slices)
    if refusal is not None:
        return StackChoice(None, (refusal,))
    stack = build_stack(slices)
    if not has_duplicates(stack):
        return StackChoice(stack, ())
    return _last_acquisition(stack)


def has_duplicates(stack: Stack) -> bool:
    """Return whether two slices lie at one position."""
    return len(stack.slices) > 1 and bool((np.diff(stack.offsets_mm) < 0.01).any())


def _missing_geometry(series: Series, slices: tuple[Slice, ...]) -> Finding | None:
    first = series.instances[0].header
    if not first.Rows or not first.Columns:
        return _refuse("pixel-matrix-missing", "The instances have no Rows or Columns, so they hold no image.")
    missing = frame_count(series) - len(slices)
    if missing:
        what = f"{missing} of {frame_count(series)} frames have no Image Position or Image Orientation (Patient)"
        return _refuse("geometry-missing", f"{what}; their place in the patient is unknown.", str(missing))
    spacings = [instance.header.PixelSpacing for instance in series.instances]
    if not all(len(spacing) == 2 and min(spacing) > 0 for spacing in spacings):
        return _refuse("geometry-missing", "Instances have no usable Pixel Spacing, so the size of their voxels is unknown.")
    if any(not _is_orthonormal(item.orientation) for item in slices):
        return _refuse("geometry-invalid", "Image Orientation (Patient) is not a pair of perpendicular unit vectors.")
    return None


def _is_orthonormal(orientation: tuple[float, ...]) -> bool:
    row, column = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    lengths = abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1)
    return max(float(value) for value in (*lengths, abs(row @ column))) < 0.01


def _not_one_grid(series: Series) -> Finding | None:
    headers = [instance.header for instance in series.instances]
    frames_of_reference = {header.FrameOfReferenceUID for header in headers}
    if len(frames_of_reference) > 1:
        message = "The series mixes frames of reference, so its slices cannot be placed beside each other."
        return _refuse("several-frames-of-reference", message, str(len(frames_of_reference)))
    matrices = {(header.Rows, header.Columns) for header in headers}
    if len(matrices) > 1:
        return _refuse("mixed-matrix", "The slices of the series differ in Rows or Columns.", str(sorted(matrices)))
    return None


def _magnitude_only(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """Drop phase, real and imaginary images where magnitude images stand beside them (PS3.3 C.8.3.1.1.1)."""
    kept = tuple(item for item in slices if not is_not_magnitude(item.instance.header))
    return kept or slices


def is_not_magnitude(header: InstanceHeader) -> bool:
    """Return whether an image is the phase, real or imaginary part ("P"; Philips writes "P_FFE")."""
    third = header.ImageType[2] if len(header.ImageType) > 2 else ""
    return bool(_NOT_MAGNITUDE & {third, third.split("_")[0], str(header.extra.get("ComplexImageComponent", ""))})


def _several_groups(slices: tuple[Slice, ...]) -> Finding | None:
    splits: tuple[tuple[str, str, Callable[[IndexedInstance], Hashable], str], ...] = (
        ("several-echoes", "echo times", lambda item: _rounded(item.header.EchoTime), "EchoTimes"),
        ("several-volumes", "temporal positions", lambda item: item.header.TemporalPositionIdentifier, "TemporalPositionIndices"),
        ("mixed-pixel-spacing", "pixel spacings", lambda item: tuple(map(_rounded, item.header.PixelSpacing)), "PixelSpacings"),
    )
    instances = {id(item.instance): item.instance for item in slices}.values()
    for code, what, key, inside in splits:
        count = len({key(instance) for instance in instances})
        count = max([count, *(_count(instance.header.extra.get(inside)) for instance in instances)])
        if count > 1:
            return _refuse(code, f"The series holds {count} different {what}; send one volume a series.", str(count))
    return None


def _several_orientations(slices: tuple[Slice, ...]) -> Finding | None:
    orientations = np.array([item.orientation for item in slices])
    spread = float(np.abs(orientations - np.median(orientations, axis=0)).max())
    if spread <= ORIENTATION_TOLERANCE:
        return None
    return _refuse("several-orientations", "The slices of the series are not parallel (a localizer or several stacks).", f"{spread:.4f}")


def _last_acquisition(stack: Stack) -> StackChoice:
    """Settle duplicate positions by Acquisition Number, later ones first; only a complete acquisition is taken."""
    groups: dict[int, list[Slice]] = defaultdict(list)
    for item in stack.slices:
        number = item.instance.header.AcquisitionNumber
        groups[-1 if number is None else number].append(item)
    positions = 1 + int((np.diff(stack.offsets_mm) >= 0.01).sum())
    for number in sorted(groups, reverse=True) if len(groups) > 1 else ():
        candidate = build_stack(groups[number])
        if len(candidate.slices) == positions and not has_duplicates(candidate):
            message = f"Slices were acquired {len(groups)} times; Acquisition Number {number}, the last complete one, was used."
            return StackChoice(candidate, (Finding("repeated-acquisition", "warning", message, str(number)),))
    twice = len(stack.slices) - positions
    message = f"{twice} slices lie at the position of another one and Acquisition Number does not separate them."
    return StackChoice(None, (_refuse("duplicate-positions", message, str(twice)),))


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else int(value or 0)


def _refuse(code: str, message: str, value: str = "") -> Finding:
    return Finding(code, "refuse", message, value)
