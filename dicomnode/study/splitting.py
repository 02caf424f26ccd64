"""One series that holds several stacks, or images beside its stack, becomes one `Series` for each stack.

Nothing is dropped unsaid.

What tells stacks apart is geometry (matrix, pixel spacing, frame of reference, orientation) and, inside a
multi-frame instance, its Stack ID, inversion time and frame type. Echoes and temporal positions are no stacks
of their own: `choose_stack` refuses them by name.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dicomnode.records import Finding, IndexedInstance, InstanceHeader, Series
from dicomnode.study.checks import is_mosaic, is_refused, regularity_findings
from dicomnode.study.stacks import (
    ORIENTATION_TOLERANCE,
    Slice,
    build_stack,
    has_duplicates,
    is_not_magnitude,
    list_slices,
)
from pipeline.counts import counted

SMALLEST_STACK = 8
"""Slices: fewer parallel ones are no stack of their own but stray images, or a localizer's."""
SMALLEST_SHARE = 0.2
"""Of the largest stack's slices: what has fewer is stray."""
MOST_TORN = 6
"""Stacks that are tried as pieces of one image."""


@dataclass(frozen=True)
class FrameKind:
    """What a multi-frame instance says of one frame alone (PS3.3 C.7.6.16.2.2, C.8.13.5).

    It is one entry of `extra["FrameKinds"]`.
    """

    StackID: str = ""
    InversionTime: float | None = None
    FrameType: tuple[str, ...] = ()
    ComplexImageComponent: str = ""


def split_series(series: Series) -> tuple[Series, ...]:
    """Return the stacks of a series; the series as it is where it is one stack, or where no stack stands out.

    Parameters
    ----------
    series
        As it came, with all of its instances.
    """
    slices = list_slices(series)
    if len(slices) < SMALLEST_STACK or is_mosaic(series):
        return (series,)
    groups = sorted(_group(slices), key=len, reverse=True)
    stacks = [group for group in groups if len(group) >= max(SMALLEST_STACK, SMALLEST_SHARE * len(groups[0]))]
    belonging = {
        (item.instance.header.SOPInstanceUID, item.frame_number) for group in stacks for item in group
    }
    # An image without a position is no slice at all.
    placed = sum(len(instance.header.positions) for instance in series.instances)
    frames = sum(max(1, instance.header.NumberOfFrames) for instance in series.instances)
    stray_count = len(slices) - len(belonging) + max(0, frames - placed)
    if not stacks or (len(stacks) == 1 and not stray_count):
        return (series,)
    if _is_torn(stacks):
        # Halves of one image in two frames of reference: either alone would be half an image, so the series
        # is refused by name.
        return (series,)
    if placed < frames and not _is_even(stacks[0]):
        # What the stack lacks may be the image whose position is unknown: that is the reason to give.
        return (series,)
    stack_parts = [_narrow(series, group) for group in stacks]
    if len(stack_parts) > 1:
        stack_parts = [
            replace(stack_part, stack_number=number) for number, stack_part in enumerate(stack_parts, start=1)
        ]
    if stray_count:
        stack_parts[0] = replace(stack_parts[0], findings=(_stray(stray_count, len(stacks[0])),))
    return tuple(stack_parts)


def _group(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Return the slices by grid and kind.

    Those of one grid with several Stack IDs stay together where they make one even stack.
    """
    grids: dict[Hashable, list[Slice]] = defaultdict(list)
    orientations: list[np.ndarray] = []
    for item in slices:
        header, kind = item.instance.header, kind_of(item)
        spacing = tuple(round(size, 3) for size in header.PixelSpacing)
        phase = is_not_magnitude(header) or kind.ComplexImageComponent in {"PHASE", "REAL", "IMAGINARY"}
        weighting = (kind.InversionTime, kind.FrameType, kind.ComplexImageComponent)
        number = _orientation_number(item.orientation, orientations)
        grids[
            header.FrameOfReferenceUID, header.Rows, header.Columns, spacing, number, weighting, phase
        ].append(item)
    groups = []
    for members in grids.values():
        by_stack: dict[str, list[Slice]] = defaultdict(list)
        for item in members:
            by_stack[kind_of(item).StackID].append(item)
        groups += [members] if len(by_stack) == 1 or _is_even(members) else list(by_stack.values())
    return groups


def kind_of(item: Slice) -> FrameKind:
    """Return what a multi-frame instance says of this frame alone; nothing where all of its frames agree."""
    kinds = item.instance.header.extra.get("FrameKinds") or ()
    if not 0 < item.frame_number <= len(kinds):
        return FrameKind()
    stack, inversion, frame_type, component = kinds[item.frame_number - 1]
    return FrameKind(str(stack), inversion, tuple(frame_type), str(component))


def _orientation_number(orientation: tuple[float, ...], orientations: list[np.ndarray]) -> int:
    """Return which of the orientations met so far this is; a new one is added to them."""
    cosines = np.asarray(orientation)
    for number, other_orientation in enumerate(orientations):
        if float(np.abs(cosines - other_orientation).max()) <= 2 * ORIENTATION_TOLERANCE:
            return number
    orientations.append(cosines)
    return len(orientations) - 1


def _is_even(members: Sequence[Slice]) -> bool:
    stack = build_stack(members)
    return not has_duplicates(stack) and not is_refused(regularity_findings(stack))


def _is_torn(stacks: Sequence[Sequence[Slice]]) -> bool:
    """Return whether some stacks, which differ in their frame of reference, make one even stack together."""
    return any(
        len({_frame_of_reference(stack) for stack in torn}) > 1 and _is_even([*itertools.chain(*torn)])
        for count in range(2, min(len(stacks), MOST_TORN) + 1)
        for torn in itertools.combinations(stacks[:MOST_TORN], count)
    )


def _frame_of_reference(stack: Sequence[Slice]) -> str | None:
    return stack[0].instance.header.FrameOfReferenceUID


def _narrow(series: Series, members: Sequence[Slice]) -> Series:
    """Return the series with these frames alone."""
    frames: dict[str, list[Slice]] = defaultdict(list)
    for item in members:
        frames[item.instance.header.SOPInstanceUID].append(item)
    instances = []
    for instance in series.instances:
        own_frames = frames.get(instance.header.SOPInstanceUID, [])
        is_whole = len(own_frames) == max(1, instance.header.NumberOfFrames)
        if own_frames and is_whole and "FrameKinds" not in instance.header.extra:
            instances.append(instance)
        elif own_frames:
            instances.append(
                _narrow_instance(instance, sorted(own_frames, key=lambda item: item.frame_number))
            )
    return replace(series, instances=tuple(instances))


def _narrow_instance(instance: IndexedInstance, own_frames: Sequence[Slice]) -> IndexedInstance:
    header, kind = instance.header, kind_of(own_frames[0])
    extra = {key: value for key, value in header.extra.items() if key not in {"FrameKinds", "FrameTypes"}}
    extra |= {"FrameNumbers": [item.frame_number for item in own_frames]}
    extra |= {"ComplexImageComponent": kind.ComplexImageComponent} if kind.ComplexImageComponent else {}
    narrowed: InstanceHeader = replace(
        header,
        NumberOfFrames=len(own_frames),
        positions=tuple(item.position for item in own_frames),
        orientations=tuple(item.orientation for item in own_frames),
        InversionTime=header.InversionTime if kind.InversionTime is None else kind.InversionTime,
        ImageType=kind.FrameType or header.ImageType,
        extra=extra,
    )
    return replace(instance, header=narrowed)


def _stray(count: int, remaining: int) -> Finding:
    subject = counted(count, "image of the series does", "images of the series do")
    message = (
        f"{subject} not belong to its {counted(remaining, 'parallel slice')} (other orientation, matrix "
        f"or position unknown) and {'was' if count == 1 else 'were'} left out."
    )
    return Finding("stray-images", "warning", message, str(count))
