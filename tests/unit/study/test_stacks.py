"""Stacks of slices: order, duplicates, what must not be mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.records import InstanceHeader, Series
from dicomnode.study.stacks import build_stack, choose_stack, list_slices
from tests.factories.headers import make_series


@given(order=st.permutations(range(12)), plane=st.sampled_from(["axial", "sagittal", "coronal"]))
def test_slices_are_sorted_along_the_normal_in_whatever_order_they_came(order: list[int], plane: str) -> None:
    series = make_series(count=12, plane=plane)
    stack = choose_stack(replace(series, instances=tuple(series.instances[index] for index in order))).stack
    assert stack is not None
    assert (np.diff(stack.offsets_mm) > 0).all()
    row, column = np.array(stack.slices[0].orientation[:3]), np.array(stack.slices[0].orientation[3:])
    assert np.allclose(stack.normal, np.cross(row, column))
    assert stack.coverage_mm == pytest.approx(60)


def edited(**changes: Callable[[int], Any]) -> Callable[[int, InstanceHeader], InstanceHeader]:
    return lambda index, header: replace(header, **{key: value(index) for key, value in changes.items()})


@pytest.mark.parametrize(
    ("each", "code"),
    [
        (edited(EchoTime=lambda i: 20.0 + 20 * (i % 2)), "several-echoes"),
        (edited(TemporalPositionIdentifier=lambda i: i % 3), "several-volumes"),
        (edited(FrameOfReferenceUID=lambda i: f"1.2.{i // 15}"), "several-frames-of-reference"),
        (edited(Rows=lambda i: 128 + i // 29), "mixed-matrix"),
        (edited(PixelSpacing=lambda i: (1.0, 1.0 + i // 29)), "mixed-pixel-spacing"),
        (edited(PixelSpacing=lambda _: ()), "geometry-missing"),
        (edited(positions=lambda i: () if i == 4 else ((0.0, 0.0, 5.0 * i),)), "geometry-missing"),
        (edited(orientations=lambda _: ((1, 0, 0, 0, 2, 0),)), "geometry-invalid"),
        (
            edited(orientations=lambda i: ((1, 0, 0, 0, 1, 0) if i < 15 else (0, 1, 0, 0, 0, -1),)),
            "several-orientations",
        ),
        (edited(Rows=lambda _: 0), "pixel-matrix-missing"),
        (edited(positions=lambda i: ((0.0, 0.0, 5.0 * (i // 2)),)), "duplicate-positions"),
    ],
)
def test_what_must_not_be_mixed_is_refused_by_name(
    each: Callable[[int, InstanceHeader], InstanceHeader], code: str
) -> None:
    choice = choose_stack(make_series(each=each))
    assert choice.stack is None
    assert [(finding.code, finding.grade) for finding in choice.findings] == [(code, "refuse")]


def repeated(first: int, second: int) -> Series:
    """Two acquisitions over the same positions, of `first` and `second` slices."""

    def place(index: int, header: InstanceHeader) -> InstanceHeader:
        again = index >= first
        number = index - first if again else index
        return replace(header, positions=((0.0, 0.0, 5.0 * number),), AcquisitionNumber=1 + again)

    return make_series(count=first + second, each=place)


@pytest.mark.parametrize(("first", "second", "taken"), [(20, 20, 2), (20, 13, 1)])
def test_a_repeated_acquisition_takes_the_last_complete_one(first: int, second: int, taken: int) -> None:
    choice = choose_stack(repeated(first, second))
    assert choice.stack is not None
    assert {item.instance.header.AcquisitionNumber for item in choice.stack.slices} == {taken}
    assert len(choice.stack.slices) == 20
    assert [(finding.code, finding.grade, finding.value) for finding in choice.findings] == [
        ("repeated-acquisition", "warning", str(taken))
    ]


def test_two_interleaved_acquisitions_are_one_stack() -> None:
    choice = choose_stack(make_series(count=20, each=edited(AcquisitionNumber=lambda i: 1 + i % 2)))
    assert choice.stack is not None
    assert len(choice.stack.slices) == 20
    assert choice.findings == ()


def test_phase_beside_magnitude_is_left_out() -> None:
    def part(index: int, header: InstanceHeader) -> InstanceHeader:
        kind = "M" if index < 15 else "P"
        return replace(
            header, positions=((0.0, 0.0, 5.0 * (index % 15)),), ImageType=("ORIGINAL", "PRIMARY", kind, "ND")
        )

    choice = choose_stack(make_series(each=part))
    assert choice.stack is not None
    assert {item.instance.header.ImageType[2] for item in choice.stack.slices} == {"M"}


def test_a_multi_frame_instance_gives_one_slice_a_frame() -> None:
    positions = tuple((0.0, 0.0, 4.0 * index) for index in range(25))
    orientations = ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0),) * 25
    series = make_series(count=1, NumberOfFrames=25, positions=positions[::-1], orientations=orientations)
    stack = build_stack(list_slices(series))
    assert [item.frame_number for item in stack.slices] == list(range(25, 0, -1))


def test_several_volumes_inside_one_instance_are_refused() -> None:
    extra = {"TemporalPositionIndices": [1, 2]}
    positions = tuple((0.0, 0.0, 4.0 * (index // 2)) for index in range(24))
    series = make_series(
        count=1, NumberOfFrames=24, positions=positions, orientations=((1, 0, 0, 0, 1, 0),) * 24, extra=extra
    )
    assert [finding.code for finding in choose_stack(series).findings] == ["several-volumes"]
