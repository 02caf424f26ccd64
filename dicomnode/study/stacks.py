"""From a series' frames to the one stack of slices that can become a volume.

Where there is no such stack, the reason has a name.

A series may hold several echoes, volumes, orientations, repeats and magnitude beside phase. They are told
apart by what the headers say, never by the order in which instances came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode.records import Finding, IndexedInstance, InstanceHeader, Series
from dicomnode.study.lattice import find_off_lattice
from pipeline.counts import counted

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines within one stack."""
STRAY_SHARE = 0.1
"""Part of a stack's slices that may be left out because they do not fit to the others."""
SAME_POSITION_MM = 0.01
"""Slices nearer than that lie at one position."""

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
    def mean_spacing_mm(self) -> float:
        """Mean distance of neighbouring slices.

        Less touched by rounded positions than the median, where no slice is missing.
        """
        return (
            float(self.offsets_mm[-1] - self.offsets_mm[0]) / (len(self.slices) - 1)
            if len(self.slices) > 1
            else 0.0
        )

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
        # Where a multi-frame instance was split, the header names the frames of this stack.
        numbers = header.extra.get("FrameNumbers") or range(1, len(header.positions) + 1)
        for number, position, orientation in zip(
            numbers, header.positions, header.orientations, strict=False
        ):
            slices.append(Slice(instance, int(number), position, orientation))
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
    order = sorted(
        range(len(slices)), key=lambda index: (offsets[index], slices[index].instance.header.SOPInstanceUID)
    )
    return Stack(tuple(slices[index] for index in order), normal, offsets[order])


def choose_stack(series: Series) -> StackChoice:
    """Find the stack of slices that stands for a series, or say by name why there is none.

    A stack acquired twice is decided by Acquisition Number: the last acquisition that covers every position
    is taken. A few slices that lie beside the lattice of all others are left out, with a finding.
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
    choice = StackChoice(stack, ())
    if has_duplicates(stack):
        choice = _last_acquisition(stack)
    elif len(stack.slices) > 2:
        choice = _without_strays(stack)
    return StackChoice(choice.stack, (*series.findings, *choice.findings))


def has_duplicates(stack: Stack) -> bool:
    """Return whether two slices lie at one position."""
    return len(stack.slices) > 1 and bool((np.diff(stack.offsets_mm) < SAME_POSITION_MM).any())


def _without_strays(stack: Stack) -> StackChoice:
    """Leave out the few slices that do not fit into the even spacing of all others."""
    strays = find_off_lattice(stack.positions, stack.normal, STRAY_SHARE)
    if not strays:
        return StackChoice(stack, ())
    remaining_stack = build_stack([item for index, item in enumerate(stack.slices) if index not in strays])
    if float(np.ptp(np.diff(remaining_stack.offsets_mm))) > 0.5 * remaining_stack.spacing_mm:
        return StackChoice(stack, ())
    return StackChoice(
        remaining_stack,
        (
            _left_out(
                len(strays),
                len(remaining_stack.slices),
                "lies beside the even spacing of",
                "lie beside the even spacing of",
            ),
        ),
    )


def _left_out(count: int, remaining: int, singular: str, plural: str) -> Finding:
    subject = counted(count, f"slice of the series {singular}", f"slices of the series {plural}")
    verb = "was" if count == 1 else "were"
    message = f"{subject} the other {remaining} and {verb} left out."
    return Finding("slices-left-out", "warning", message, str(count))


def _missing_geometry(series: Series, slices: tuple[Slice, ...]) -> Finding | None:
    first = series.instances[0].header
    if not first.Rows or not first.Columns:
        return _refuse(
            "pixel-matrix-missing", "The instances have no Rows or Columns, so they hold no image."
        )
    missing = frame_count(series) - len(slices)
    if missing:
        message = (
            f"{missing} of {counted(frame_count(series), 'frame')} {'has' if missing == 1 else 'have'} "
            "no Image Position or Image Orientation (Patient); "
            f"where {'it lies' if missing == 1 else 'they lie'} in the patient is unknown."
        )
        return _refuse("geometry-missing", message, str(missing))
    spacings = [instance.header.PixelSpacing for instance in series.instances]
    if not all(len(spacing) == 2 and min(spacing) > 0 for spacing in spacings):
        return _refuse(
            "geometry-missing",
            "Instances have no usable Pixel Spacing, so the size of their voxels is unknown.",
        )
    if any(not _is_orthonormal(item.orientation) for item in slices):
        return _refuse(
            "geometry-invalid", "Image Orientation (Patient) is not a pair of perpendicular unit vectors."
        )
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
        return _refuse(
            "mixed-matrix", "The slices of the series differ in Rows or Columns.", str(sorted(matrices))
        )
    return None


def _magnitude_only(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """Drop phase, real and imaginary images where magnitude images stand beside them (PS3.3 C.8.3.1.1.1)."""
    magnitude = tuple(item for item in slices if not is_not_magnitude(item.instance.header))
    return magnitude or slices


def is_not_magnitude(header: InstanceHeader) -> bool:
    """Return whether an image is the phase, real or imaginary part ("P"; Philips writes "P_FFE")."""
    third = header.ImageType[2] if len(header.ImageType) > 2 else ""
    return bool(
        _NOT_MAGNITUDE & {third, third.split("_")[0], str(header.extra.get("ComplexImageComponent", ""))}
    )


def _several_groups(slices: tuple[Slice, ...]) -> Finding | None:
    splits: tuple[tuple[str, str, Callable[[IndexedInstance], Hashable], str], ...] = (
        ("several-echoes", "echo times", lambda item: _rounded(item.header.EchoTime), "EchoTimes"),
        (
            "several-volumes",
            "temporal positions",
            lambda item: item.header.TemporalPositionIdentifier,
            "TemporalPositionIndices",
        ),
        (
            "mixed-pixel-spacing",
            "pixel spacings",
            lambda item: tuple(map(_rounded, item.header.PixelSpacing)),
            "PixelSpacings",
        ),
    )
    instances = {id(item.instance): item.instance for item in slices}.values()
    for code, noun, key, inside in splits:
        count = len({key(instance) for instance in instances})
        count = max([count, *(_count(instance.header.extra.get(inside)) for instance in instances)])
        if count > 1:
            return _refuse(
                code, f"The series holds {count} different {noun}; send one volume a series.", str(count)
            )
    return None


def _several_orientations(slices: tuple[Slice, ...]) -> Finding | None:
    orientations = np.array([item.orientation for item in slices])
    spread = float(np.abs(orientations - np.median(orientations, axis=0)).max())
    if spread <= ORIENTATION_TOLERANCE:
        return None
    return _refuse(
        "several-orientations",
        "The slices of the series are not parallel (a localizer or several stacks).",
        f"{spread:.4f}",
    )


def _last_acquisition(stack: Stack) -> StackChoice:
    """Decide duplicate positions by Acquisition Number, later ones first.

    Only a complete acquisition is taken.
    """
    groups: dict[int, list[Slice]] = defaultdict(list)
    for item in stack.slices:
        number = item.instance.header.AcquisitionNumber
        groups[-1 if number is None else number].append(item)
    positions = 1 + int((np.diff(stack.offsets_mm) >= SAME_POSITION_MM).sum())
    for number in sorted(groups, reverse=True) if len(groups) > 1 else ():
        candidate = build_stack(groups[number])
        if len(candidate.slices) == positions and not has_duplicates(candidate):
            message = (
                f"Slices were acquired {len(groups)} times; Acquisition Number {number}, the last "
                "complete one, was used."
            )
            return StackChoice(candidate, (Finding("repeated-acquisition", "warning", message, str(number)),))
    surplus = len(stack.slices) - positions
    if surplus <= max(1, int(STRAY_SHARE * positions)):
        remaining_stack = build_stack(_last_at_each_position(stack))
        return StackChoice(
            remaining_stack,
            (_left_out(surplus, positions, "lies at the position of one of", "lie at positions of"),),
        )
    message = (
        f"{counted(surplus, 'slice lies', 'slices lie')} at the position of another one "
        "and Acquisition Number does not separate them."
    )
    return StackChoice(None, (_refuse("duplicate-positions", message, str(surplus)),))


def _last_at_each_position(stack: Stack) -> list[Slice]:
    """Return one slice a position.

    Of several, the one whose Image Type most slices have, then the one with the highest Instance Number.
    """
    types = Counter(item.instance.header.ImageType for item in stack.slices)
    groups: list[list[Slice]] = []
    for index, item in enumerate(stack.slices):
        if index and stack.offsets_mm[index] - stack.offsets_mm[index - 1] < SAME_POSITION_MM:
            groups[-1].append(item)
        else:
            groups.append([item])

    def rank(item: Slice) -> tuple[int, int, str]:
        header = item.instance.header
        return types[header.ImageType], header.InstanceNumber or 0, header.SOPInstanceUID

    return [max(group, key=rank) for group in groups]


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else int(value or 0)


def _refuse(code: str, message: str, value: str = "") -> Finding:
    return Finding(code, "refuse", message, value)
