"""Stray slices, split stacks, joined series, rounded positions: drawn at random, each with what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicomnode.records import IndexedInstance, InstanceHeader, Series
from dicomnode.study.assembly import assemble
from dicomnode.study.checks import is_refused, regularity_findings
from dicomnode.study.stacks import choose_stack
from tests.factories.headers import PLANES, indexed, make_series


def spread(series: Series, owners: Sequence[int]) -> list[IndexedInstance]:
    """Return the slices under several Series Instance UIDs: slice k belongs to series `owners[k]`."""
    return [
        replace(
            item, header=replace(item.header, SeriesInstanceUID=f"1.2.3.50.{owner}", SeriesNumber=50 + owner)
        )
        for item, owner in zip(series.instances, owners, strict=True)
    ]


def thick(**changes: object) -> Series:
    return make_series(count=36, spacing_mm=4.0, SliceThickness=4.0, **changes)  # type: ignore[arg-type]


SPLITS = {
    "halves": [int(index >= 21) for index in range(36)],
    "odd-even": [index % 2 for index in range(36)],
    "thirds": [index // 12 for index in range(36)],
    "every-third": [index % 3 for index in range(36)],
    "one-a-slice": list(range(36)),
}


@pytest.mark.parametrize("name", SPLITS)
def test_one_stack_under_several_series_is_joined_and_named(name: str) -> None:
    (series,) = assemble("1.2.3", spread(thick(), SPLITS[name])).series

    choice = choose_stack(series)

    assert choice.stack is not None
    assert len(choice.stack.slices) == 36
    assert len(series.joined) == len(set(SPLITS[name]))
    assert [finding.code for finding in choice.findings] == ["joined-series"]


@pytest.mark.parametrize("name", ["halves", "odd-even", "thirds", "every-third"])
def test_one_stack_torn_into_frames_of_reference_is_refused_by_name(name: str) -> None:
    """Half an image must not pass for a whole one."""
    whole = thick()
    instances = tuple(
        replace(item, header=replace(item.header, FrameOfReferenceUID=f"1.2.9.{owner}"))
        for item, owner in zip(whole.instances, SPLITS[name], strict=True)
    )

    for series in assemble("1.2.3", instances).series:
        choice = choose_stack(series)
        assert choice.stack is None
        assert [finding.code for finding in choice.findings] == ["several-frames-of-reference"]


def test_two_whole_stacks_of_two_frames_of_reference_are_split() -> None:
    """The patient was moved, and the scanner wrote both acquisitions into one series."""
    again = [
        replace(
            item,
            header=replace(
                item.header,
                FrameOfReferenceUID="1.2.9.1",
                SOPInstanceUID=f"1.2.7.{number}",
                InstanceNumber=100 + number,
            ),
        )
        for number, item in enumerate(thick().instances)
    ]

    parts = assemble("1.2.3", [*thick().instances, *again]).series

    assert [len(series.instances) for series in parts] == [36, 36]
    assert all(choose_stack(series).stack is not None for series in parts)


@settings(max_examples=25, deadline=None)
@given(first=st.integers(9, 30), overlap=st.integers(1, 5))
def test_overlapping_halves_give_every_position_once(first: int, overlap: int) -> None:
    whole = thick().instances
    again = [
        replace(
            item,
            header=replace(
                item.header, SOPInstanceUID=f"{item.header.SOPInstanceUID}.9", SeriesInstanceUID="1.2.3.60"
            ),
        )
        for item in whole[first - overlap :]
    ]

    (series,) = assemble("1.2.3", [*whole[:first], *again]).series

    stack = choose_stack(series).stack
    assert stack is not None
    assert np.allclose(np.diff(stack.offsets_mm), 4.0)
    assert len(stack.slices) == 36


@pytest.mark.parametrize(
    ("shift_mm", "change"),
    [(0.0, {}), (2.0, {}), (144.0, {"EchoTime": 90.0}), (144.0, {"FrameOfReferenceUID": "1.2.8"})],
)
def test_two_runs_stay_two_series(shift_mm: float, change: dict[str, object]) -> None:
    """Repeats at the same positions, runs shifted by half a slice, and pieces of another acquisition are no stack."""

    def move(index: int, header: InstanceHeader) -> InstanceHeader:
        return replace(
            header,
            SOPInstanceUID=f"1.2.9.{index}",
            SeriesInstanceUID="1.2.3.61",
            positions=((0.0, 0.0, 4.0 * index + shift_mm),),
            **change,
        )

    other = make_series(count=36, spacing_mm=4.0, SliceThickness=4.0, each=move)
    study = assemble("1.2.3", [*thick().instances, *other.instances])

    assert [len(series.instances) for series in study.series] == [36, 36]
    assert not any(series.joined for series in study.series)


def test_pieces_that_do_not_fit_are_named() -> None:
    """The second half lies a third of a slice off: it is not joined, and both say that there are more slices."""
    halves = spread(thick(), SPLITS["halves"])
    shifted = [
        replace(item, header=replace(item.header, positions=((0.0, 0.0, item.header.positions[0][2] + 1.7),)))
        if item.header.SeriesNumber == 51
        else item
        for item in halves
    ]

    study = assemble("1.2.3", shifted)

    assert [[finding.code for finding in choose_stack(series).findings] for series in study.series] == [
        ["stack-in-parts"],
        ["stack-in-parts"],
    ]


STRAYS = {
    "orientation": {"orientations": (PLANES["sagittal"],)},
    "matrix": {"Rows": 512},
    "pixel-spacing": {"PixelSpacing": (2.0, 2.0)},
    "no-position": {"positions": ()},
    "frame-of-reference": {"FrameOfReferenceUID": "1.2.77"},
}


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(sorted(STRAYS)), count=st.integers(1, 4), place=st.integers(0, 36))
def test_stray_images_do_not_condemn_a_stack(kind: str, count: int, place: int) -> None:
    whole = list(thick().instances)
    header = replace(whole[3].header, **STRAYS[kind])
    strays = [indexed(replace(header, SOPInstanceUID=f"1.2.99.{number}")) for number in range(count)]

    (series,) = assemble("1.2.3", [*whole[:place], *strays, *whole[place:]]).series

    choice = choose_stack(series)
    assert choice.stack is not None
    assert len(choice.stack.slices) == 36
    assert [(finding.code, finding.value) for finding in choice.findings] == [("stray-images", str(count))]


def test_two_whole_orientations_become_two_stacks() -> None:
    other = make_series(count=30, plane="sagittal", spacing_mm=5.0)
    instances = [
        *thick().instances,
        *(
            replace(i, header=replace(i.header, SOPInstanceUID=f"{i.header.SOPInstanceUID}.7"))
            for i in other.instances
        ),
    ]

    study = assemble("1.2.3", instances)

    assert [len(series.instances) for series in study.series] == [36, 30]
    assert len({series.key for series in study.series}) == 2


def test_a_parallel_slice_beside_the_even_spacing_is_left_out_and_said() -> None:
    whole = list(thick().instances)
    stray = indexed(replace(whole[0].header, SOPInstanceUID="1.2.98", positions=((0.0, 0.0, 4.0 * 7 + 1.5),)))

    (series,) = assemble("1.2.3", [*whole, stray]).series

    choice = choose_stack(series)
    assert choice.stack is not None
    assert len(choice.stack.slices) == 36
    assert [finding.code for finding in choice.findings] == ["slices-left-out"]


@settings(max_examples=60, deadline=None)
@example(step_mm=0.5, tilt_deg=0.0, spacing_mm=4.5625, origin=(0.0, 0.0, 0.0))
@example(step_mm=0.5, tilt_deg=4.25, spacing_mm=2.5, origin=(0.0, 0.0, 0.0))
@given(
    step_mm=st.sampled_from([0.01, 0.05, 0.1, 0.5]),
    tilt_deg=st.floats(-25, 25),
    spacing_mm=st.floats(2.5, 6.0),
    origin=st.tuples(*[st.floats(-120, 120)] * 3),
)
def test_positions_rounded_by_the_scanner_are_no_gap(
    step_mm: float, tilt_deg: float, spacing_mm: float, origin: tuple[float, float, float]
) -> None:
    tilt = np.radians(tilt_deg)
    normal = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt)))

    def place(index: int, header: InstanceHeader) -> InstanceHeader:
        exact = np.array(origin) + index * spacing_mm * normal
        rounded = np.rint(exact / step_mm) * step_mm
        return replace(
            header,
            positions=(tuple(float(round(value, 4)) for value in rounded),),
            orientations=(orientation,),
        )

    stack = choose_stack(make_series(count=40, each=place)).stack

    assert stack is not None
    assert len(stack.slices) == 40
    assert not is_refused(regularity_findings(stack))


def test_a_refusal_never_says_that_no_slice_is_missing() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        offsets = np.cumsum(random.choice([2.0, 3.0, 3.0, 3.0, 4.5, 6.0], 25)) + random.normal(0, 0.2, 25)
        series = make_series(
            count=25,
            each=lambda index, header, offsets=offsets: replace(
                header, positions=((0.0, 0.0, float(offsets[index])),)
            ),
        )
        stack = choose_stack(series).stack
        findings = () if stack is None else regularity_findings(stack)
        for finding in findings:
            assert finding.code != "missing-slices" or int(finding.value) > 0


@settings(max_examples=60, deadline=None)
@example(step_mm=0.5, spacing_mm=4.5625, after=20)
@given(step_mm=st.sampled_from([0.01, 0.1]), spacing_mm=st.floats(3.0, 6.0), after=st.integers(1, 38))
def test_a_stray_slice_between_rounded_ones_is_the_only_one_left_out(
    step_mm: float, spacing_mm: float, after: int
) -> None:
    exact = [index * spacing_mm for index in range(40)]
    exact.insert(after, (after - 0.5) * spacing_mm)

    def place(index: int, header: InstanceHeader) -> InstanceHeader:
        offset = round(exact[index] / step_mm) * step_mm
        return replace(
            header, positions=((0.0, 0.0, round(offset, 4)),), orientations=((1.0, 0, 0, 0, 1.0, 0),)
        )

    choice = choose_stack(make_series(count=41, each=place))

    assert choice.stack is not None
    assert len(choice.stack.slices) == 40
    assert [finding.code for finding in choice.findings] == ["slices-left-out"]
