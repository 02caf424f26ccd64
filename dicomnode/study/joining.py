"""Several series that are one stack become one `Series`: halves, every second slice, a series for each slice.

Joined are series that agree in grid, frame of reference and acquisition and whose slices, put together, are
evenly spaced. Two whole runs of one protocol are repeats and stay apart; so do runs whose slices would
overlap when put together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from dicomnode.records import Finding, InstanceHeader, Series
from dicomnode.study.checks import is_mosaic, is_refused, regularity_findings
from dicomnode.study.lattice import ABSOLUTE_TOLERANCE_MM, RELATIVE_TOLERANCE
from dicomnode.study.stacks import (
    ORIENTATION_TOLERANCE,
    Slice,
    Stack,
    build_stack,
    has_duplicates,
    is_not_magnitude,
    list_slices,
)
from pipeline.counts import counted

LARGEST_OVERLAP = 0.1
"""Part of the slice thickness by which neighbouring slices of a joined stack may overlap.

More, and they are two runs.
"""
MOST_TRIED = 6
"""Series of one kind of which every combination is tried; of more, only all together."""


def join_series(series: Sequence[Series]) -> tuple[Series, ...]:
    """Return the series of a study with those put together that are one stack, in the order given.

    Series that look like pieces of one stack and cannot be joined carry a finding that says so.
    """
    groups: dict[Hashable, list[Series]] = defaultdict(list)
    for item in series:
        groups[_kind(item)].append(item)
    replaced: dict[str, Series | None] = {}
    for kind, members in groups.items():
        if kind is None or len(members) < 2:
            continue
        for alike in _by_orientation(members):
            for joined in _join_group(alike):
                replaced |= {
                    member.key: None for member in alike if member.SeriesInstanceUID in joined.joined
                }
                replaced[joined.key] = joined
            replaced |= _name_pieces([member for member in alike if member.key not in replaced])
    ordered = (replaced.get(item.key, item) for item in series)
    return tuple(item for item in ordered if item is not None)


def _kind(series: Series) -> Hashable:
    """Return what two pieces of one stack have in common; None for what is never joined.

    Words (Series Description, Protocol Name) are left out: who split a stack often wrote "1/2" behind them.
    """
    header = series.instances[0].header
    if series.stack_number or is_mosaic(series) or not header.FrameOfReferenceUID or not list_slices(series):
        return None
    timing = tuple(
        _rounded(number)
        for number in (header.EchoTime, header.RepetitionTime, header.InversionTime, header.FlipAngle)
    )
    grid = (
        header.FrameOfReferenceUID,
        header.Rows,
        header.Columns,
        tuple(round(size, 3) for size in header.PixelSpacing),
    )
    sequence = (
        header.ScanningSequence,
        header.SequenceVariant,
        header.SequenceName,
        header.MRAcquisitionType,
        header.AcquisitionContrast,
    )
    image = (
        header.Modality,
        header.SOPClassUID,
        header.ImageType,
        is_not_magnitude(header),
        header.ContrastBolusAgent,
    )
    return grid, timing, sequence, image, _rounded(header.SliceThickness), header.TemporalPositionIdentifier


def _by_orientation(members: Sequence[Series]) -> Iterator[list[Series]]:
    remaining = list(members)
    while remaining:
        first = np.asarray(list_slices(remaining[0])[0].orientation)
        alike = [
            item
            for item in remaining
            if np.abs(np.asarray(list_slices(item)[0].orientation) - first).max() <= ORIENTATION_TOLERANCE
        ]
        yield alike
        series_keys = {item.key for item in alike}
        remaining = [item for item in remaining if item.key not in series_keys]


def _join_group(alike: Sequence[Series]) -> list[Series]:
    """Return the stacks that can be put together; every series belongs to one at most."""
    joined: list[Series] = []
    remaining = list(alike)
    while len(remaining) > 1:
        joined_series = next(
            (joined_series for joined_series in _combinations(remaining) if _is_one_stack(joined_series)),
            None,
        )
        if joined_series is None:
            break
        joined.append(_put_together(joined_series))
        series_keys = {member.key for member in joined_series}
        remaining = [item for item in remaining if item.key not in series_keys]
    return joined


def _combinations(series: Sequence[Series]) -> Iterator[tuple[Series, ...]]:
    yield tuple(series)
    if len(series) <= MOST_TRIED:
        for count in range(len(series) - 1, 1, -1):
            yield from combinations(series, count)


def _is_one_stack(joined_series: Sequence[Series]) -> bool:
    """Return whether the slices of all pieces are one even stack to which every piece contributes."""
    slices = _one_a_position(joined_series)
    contributed = {item.instance.header.SeriesInstanceUID for item in slices}
    if len(slices) < 3 or len(contributed) < len(joined_series) or not _each_adds_positions(joined_series):
        return False
    stack = build_stack(slices)
    return (
        not has_duplicates(stack)
        and not is_refused(regularity_findings(stack))
        and _is_as_dense_as_said(stack, joined_series)
    )


def _each_adds_positions(joined_series: Sequence[Series]) -> bool:
    """Return whether every piece has a position that no other has: else it repeats what is there."""
    owners: dict[int, set[str]] = defaultdict(set)
    for number, key in _numbered_positions(joined_series):
        owners[number].add(key)
    alone = {next(iter(keys)) for keys in owners.values() if len(keys) == 1}
    return alone == {member.key for member in joined_series}


def _is_as_dense_as_said(stack: Stack, joined_series: Sequence[Series]) -> bool:
    """Return whether the joined slices are as far apart as they are thick, or as the header says.

    Two runs of one protocol whose slices were shifted by half a spacing are even when put together, but are
    two images.
    """
    header: InstanceHeader = joined_series[0].instances[0].header
    spacing_mm = stack.mean_spacing_mm
    single = [build_stack(list_slices(member)) for member in joined_series]
    if any(
        len(item.slices) > 1 and abs(item.mean_spacing_mm - spacing_mm) <= _tolerance_mm(spacing_mm)
        for item in single
    ):
        return True
    announced_mm = header.SpacingBetweenSlices or 0.0
    thickness_mm = header.SliceThickness or 0.0
    if abs(announced_mm - spacing_mm) <= _tolerance_mm(spacing_mm):
        return True
    return bool(thickness_mm) and spacing_mm >= (1 - LARGEST_OVERLAP) * thickness_mm


def _put_together(joined_series: Sequence[Series]) -> Series:
    """Return one series of all pieces.

    Of slices at one position the one of the piece with the most slices is taken.
    """
    slices = _one_a_position(joined_series)
    series_keys = {(item.instance.header.SOPInstanceUID, item.frame_number) for item in slices}
    instances = tuple(
        instance
        for member in joined_series
        for instance in member.instances
        if any(
            (instance.header.SOPInstanceUID, number) in series_keys
            for number in range(1, max(1, instance.header.NumberOfFrames) + 1)
        )
    )
    counts = [
        sum(item.instance.header.SeriesInstanceUID == member.SeriesInstanceUID for item in slices)
        for member in joined_series
    ]
    numbers = ", ".join(str(member.instances[0].header.SeriesNumber) for member in joined_series[:8]) + (
        ", ..." if len(joined_series) > 8 else ""
    )
    shares = " + ".join(map(str, counts[:8])) + (" + ..." if len(counts) > 8 else "")
    message = (
        f"The stack is spread over {len(joined_series)} series (numbers {numbers}) and was "
        f"put together: {shares} slices."
    )
    finding = Finding("joined-series", "info", message, str(len(joined_series)))
    uids = tuple(member.SeriesInstanceUID for member in joined_series)
    return replace(
        joined_series[0],
        instances=instances,
        joined=uids,
        findings=(*(f for member in joined_series for f in member.findings), finding),
    )


def _one_a_position(joined_series: Sequence[Series]) -> list[Slice]:
    ordered = sorted(joined_series, key=lambda member: -len(list_slices(member)))
    slice_at: dict[int, Slice] = {}
    slices = [item for member in ordered for item in list_slices(member)]
    for number, item in zip(_position_numbers(slices), slices, strict=True):
        first = slice_at.setdefault(number, item)
        if (
            first is not item
            and first.instance.header.SeriesInstanceUID == item.instance.header.SeriesInstanceUID
        ):
            return []
    return list(slice_at.values())


def _numbered_positions(joined_series: Sequence[Series]) -> Iterator[tuple[int, str]]:
    slices = [(member.key, item) for member in joined_series for item in list_slices(member)]
    numbers = _position_numbers([item for _, item in slices])
    yield from ((number, key) for number, (key, _) in zip(numbers, slices, strict=True))


def _position_numbers(slices: Sequence[Slice]) -> list[int]:
    """Return a number for each slice, the same for slices at one position along the normal."""
    stack = build_stack(slices)
    distances = np.diff(stack.offsets_mm)
    # Two runs of one plan may differ by what scanners round.
    apart = distances > _same_position_mm(distances, slices)
    numbers = dict(zip(map(id, stack.slices), [0, *np.cumsum(apart).tolist()], strict=True))
    return [int(numbers[id(item)]) for item in slices]


def _same_position_mm(distances: npt.NDArray[np.float64], slices: Sequence[Slice]) -> float:
    thickness_mm = slices[0].instance.header.SliceThickness or (
        float(distances.max()) if distances.size else 1.0
    )
    return min(ABSOLUTE_TOLERANCE_MM, 0.1 * thickness_mm)


def _name_pieces(series: Sequence[Series]) -> dict[str, Series]:
    """Return the series of one kind that lie next to each other without making one stack.

    Each has a finding that names the others.
    """
    named: dict[str, Series] = {}
    for item in series:
        partners = [
            partner
            for partner in series
            if partner is not item and _each_adds_positions((item, partner)) and _lie_apart(item, partner)
        ]
        if not partners:
            continue
        count = sum(len(list_slices(partner)) for partner in partners)
        numbers = ", ".join(str(partner.instances[0].header.SeriesNumber) for partner in partners[:8])
        subject = counted(count, "more slice of the same kind lies", "more slices of the same kind lie")
        outcome = "it does not fit and was" if count == 1 else "they do not fit together and were"
        message = f"{subject} in other series (numbers {numbers}); {outcome} left out."
        named[item.key] = replace(
            item, findings=(*item.findings, Finding("stack-in-parts", "warning", message, str(count)))
        )
    return named


def _lie_apart(first: Series, second: Series) -> bool:
    """Return whether at least half of the smaller series lies beyond the other.

    Slices between those of the larger series must lie more thinly than they do.
    """
    stacks = [build_stack(list_slices(item)) for item in (first, second)]
    smaller, larger = sorted(stacks, key=lambda stack: len(stack.slices))
    normal = larger.normal
    offsets = smaller.positions @ normal
    half_mm = larger.mean_spacing_mm / 2
    beyond = (offsets < larger.offsets_mm[0] - half_mm) | (offsets > larger.offsets_mm[-1] + half_mm)
    return bool(beyond.mean() >= 0.5)


def _tolerance_mm(spacing_mm: float) -> float:
    return ABSOLUTE_TOLERANCE_MM + RELATIVE_TOLERANCE * spacing_mm


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)
