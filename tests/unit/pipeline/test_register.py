"""Rigid registration: a patient who moved is found again, by the same bits from every run; SimpleITK's threads are given back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK

from pipeline.geometry import grid_of
from pipeline.preprocess.extract_brain import Brain, apply_brain_threshold
from pipeline.preprocess.header_fit import measure_fit
from pipeline.preprocess.metric import ImagePair
from pipeline.preprocess.register import (
    BRAIN_RADIUS_MM,
    PROVEN_GAIN,
    apply_registration,
    middle_of,
    plan_registration,
    to_sitk,
)
from pipeline.preprocess.resample import sample_linear
from pipeline.preprocess.threads import one_thread
from pipeline.records import Volume
from tests.factories.volumes import AXIAL, draw_head, grid_affine, rotation

SHAPE, SPACING = (44, 62, 52), (3.4, 3.0, 3.0)


def with_brain(image: Volume) -> tuple[Volume, Brain]:
    inside = image.with_array((image.array > 60).astype(np.float32))
    return image, apply_brain_threshold(inside, 0.5)


@pytest.mark.slow
def test_a_motion_is_found_by_the_same_bits_on_any_number_of_cores(
    count_threads: Callable[[int], None],
) -> None:
    moved = np.eye(4)
    moved[:3, :3] = rotation((0.2, 0.1, 1.0), 6.0)
    moved[:3, 3] = (5.0, -3.0, 2.0)
    affine = grid_affine(SHAPE, SPACING, directions=AXIAL)
    flair, here = with_brain(draw_head(SHAPE, affine))
    t1, there = with_brain(draw_head(SHAPE, affine, contrast="t1", patient_to_head=np.linalg.inv(moved)))
    plan, found = plan_registration(here, there, same_frame=True), []

    for count in (2, 1):
        count_threads(count)
        found.append(apply_registration(plan, flair, t1, here, there))

    assert len({(each.link.tobytes(), each.metric_before, each.metric_after) for each in found}) == 1
    rim = np.array([[60.0, 0, 0, 1], [0, -75.0, 0, 1], [0, 0, 55.0, 1]])
    assert np.linalg.norm(rim @ (found[0].link - moved).T, axis=1).max() < 2.0
    assert found[0].rotation_deg == pytest.approx(6.0, abs=1.0)


def test_threads_are_given_back_also_after_an_error(count_threads: Callable[[int], None]) -> None:
    count_threads(3)
    seen: list[int] = []

    @one_thread()
    def fail() -> None:
        seen.append(SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads())
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()

    assert (seen, SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()) == ([1], 3)


class TestHeadersThatFit:
    """Whether a search is needed, from two dozen measurements around the headers."""

    def bound(self, *shift_mm: float) -> float:
        """Return the bound for a T1 that lies so far from where its headers put it."""
        moved = np.eye(4)
        moved[:3, 3] = shift_mm
        affine = grid_affine(SHAPE, SPACING, directions=AXIAL)
        flair, here = with_brain(draw_head(SHAPE, affine))
        t1 = draw_head(SHAPE, affine, contrast="t1", patient_to_head=np.linalg.inv(moved))
        inside = sample_linear(here.soft, grid_of(flair)) >= here.threshold
        images = [to_sitk(image.array.astype(np.float32), grid_of(image)) for image in (flair, t1)]
        pair = ImagePair(images[0], to_sitk(inside.astype(np.uint8), grid_of(flair)), images[1])
        with one_thread():
            return measure_fit(pair, middle_of(here), BRAIN_RADIUS_MM).gain

    def test_little_is_to_be_gained_where_they_fit(self) -> None:
        assert self.bound(0, 0, 0) <= PROVEN_GAIN < self.bound(1.5, 0, 0)

    @pytest.mark.slow
    @pytest.mark.parametrize("shift_mm", [(0, 0, -1.5), (5, 5, 0), (0, 20, 0)])
    def test_more_is_to_be_gained_where_the_patient_moved(self, shift_mm: tuple[float, ...]) -> None:
        assert self.bound(*shift_mm) > PROVEN_GAIN


@pytest.mark.slow
def test_a_search_is_spared_where_the_headers_fit_and_only_there() -> None:
    affine = grid_affine(SHAPE, SPACING, directions=AXIAL)
    flair, here = with_brain(draw_head(SHAPE, affine))
    starts = {}
    for shift_mm in (0.0, 4.0):
        moved = np.eye(4)
        moved[0, 3] = shift_mm
        t1, there = with_brain(draw_head(SHAPE, affine, contrast="t1", patient_to_head=np.linalg.inv(moved)))
        for same_frame in (True, False):
            plan = plan_registration(here, there, same_frame=same_frame)
            starts[shift_mm, same_frame] = apply_registration(plan, flair, t1, here, there).start
    assert starts.pop((0.0, True)) == "headers, nothing better near"
    assert "headers, nothing better near" not in starts.values()
