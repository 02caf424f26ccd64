"""Rigid registration: a patient who moved is found again, by the same bits from every run; SimpleITK's threads are given back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK

from pipeline.preprocess.extract_brain import Brain, apply_brain_threshold
from pipeline.preprocess.register import apply_registration, plan_registration
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
