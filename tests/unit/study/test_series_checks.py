"""Graded findings on one series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dicomnode.records import Finding, InstanceHeader, Series
from dicomnode.settings.config import SelectionSettings
from dicomnode.study.checks import check_series, is_refused
from tests.factories.headers import make_series, without

Each = Callable[[int, InstanceHeader], InstanceHeader]


def check(series: Series) -> tuple[Finding, ...]:
    return check_series(series, "flair", SelectionSettings())


def codes(series: Series) -> list[tuple[str, str]]:
    return [(finding.code, finding.grade) for finding in check(series)]


@pytest.mark.parametrize("plane", ["axial", "sagittal", "coronal"])
def test_a_sound_series_has_no_findings(plane: str) -> None:
    assert check(make_series(plane=plane)) == ()


@pytest.mark.parametrize(("gone", "missing"), [([7], "1"), ([3, 11, 20], "3"), ([10, 11], "2")])
def test_missing_slices_are_counted(gone: list[int], missing: str) -> None:
    (finding,) = [item for item in check(without(make_series(), gone)) if item.grade == "refuse"]
    assert (finding.code, finding.value) == ("missing-slices", missing)


def test_slices_missing_at_an_end_are_told_by_the_count() -> None:
    assert codes(without(make_series(), [28, 29])) == [("instances-missing", "warning")]


def test_every_second_slice_missing_is_told_by_the_spacing() -> None:
    series = make_series(spacing_mm=6.0, SpacingBetweenSlices=3.0, SliceThickness=3.0)
    assert codes(series) == [("spacing-contradicts-header", "warning")]
    assert codes(make_series(spacing_mm=6.0, SpacingBetweenSlices=1.0, SliceThickness=5.0)) == []


def placed(position: Callable[[int], tuple[float, float, float]]) -> Each:
    return lambda index, header: replace(header, positions=(position(index),))


def shifted(degrees: float) -> Each:
    return placed(lambda i: (0.0, 5.0 * i * float(np.tan(np.radians(degrees))), 5.0 * i))


@pytest.mark.parametrize(
    ("each", "code"),
    [
        (placed(lambda i: (0.0, 0.0, 5.0 * i + (1.3 if i > 9 else 0.0))), "uneven-spacing"),
        (shifted(15), "sheared-stack"),
        (placed(lambda i: (0.3 * (i % 2), 0.0, 5.0 * i)), "uneven-spacing"),
    ],
)
def test_irregular_grids_are_refused(each: Each, code: str) -> None:
    assert codes(make_series(each=each)) == [(code, "refuse")]


@pytest.mark.parametrize("jitter_mm", [0.004, 0.04])
def test_rounded_positions_pass(jitter_mm: float) -> None:
    assert codes(make_series(each=placed(lambda i: (0.0, 0.0, 5.0 * i + jitter_mm * (i % 2) / 2)))) == []


def test_orientation_jitter_is_told_and_passes() -> None:
    def jitter(index: int, header: InstanceHeader) -> InstanceHeader:
        return replace(header, orientations=((1.0, 0.0, 0.0, 0.0, 1.0, 5e-4 * (index % 2)),))

    assert codes(make_series(each=jitter)) == [("orientation-jitter", "info")]


@pytest.mark.parametrize(
    ("series", "code"),
    [
        (make_series(count=9, spacing_mm=10.0), "too-few-slices"),
        (make_series(count=15, spacing_mm=3.0), "coverage-too-small"),
        (make_series(count=20, spacing_mm=5.5, plane="coronal"), "coverage-too-small"),
        (make_series(count=12, spacing_mm=12.0), "slices-too-thick"),
        (make_series(FrameOfReferenceUID=""), "frame-of-reference-missing"),
        (make_series(PhotometricInterpretation="RGB"), "photometric-not-supported"),
        (make_series(ImageType=("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC")), "mosaic-not-supported"),
    ],
)
def test_what_is_no_head_volume_is_refused_by_name(series: Series, code: str) -> None:
    assert codes(series) == [(code, "refuse")]


def test_limits_are_settings() -> None:
    settings = SelectionSettings(minimum_slices=4, minimum_coverage_mm=10, maximum_slice_spacing_mm=20)
    assert check_series(make_series(count=4, spacing_mm=15.0), "flair", settings) == ()


def test_lossy_compression_is_a_warning() -> None:
    findings = check(make_series(LossyImageCompression="01"))
    assert [(finding.code, finding.grade) for finding in findings] == [("lossy-compression", "warning")]
    assert not is_refused(findings)


def test_non_square_pixels_and_thick_slices_pass() -> None:
    assert check(make_series(count=16, spacing_mm=9.5, PixelSpacing=(0.8, 1.3))) == ()
