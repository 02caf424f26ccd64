"""What became of a lesion: by maps whose answer is known, and by a head that was imaged twice."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.followup import compare_lesions, follow_up
from pipeline.geometry import axial_affine
from pipeline.plan import Recipe
from pipeline.records import Earlier, Volume
from pipeline.run import run_pipeline
from tests.factories.steps import logged
from tests.factories.volumes import (
    AXIAL,
    CORONAL,
    FRAME,
    LEFT_BALL,
    RIGHT_BALL,
    Ball,
    draw_head,
    grid_affine,
    rotation,
)

SHAPE = (20, 40, 40)


def draw(
    *boxes: tuple[slice, slice, slice], spacing: float = 2.0, shape: tuple[int, int, int] = SHAPE
) -> Volume:
    array = np.zeros(shape, np.uint16)
    for label, box in enumerate(boxes, start=1):
        array[box] = label
    return Volume(array, axial_affine(shape, (spacing,) * 3, (0, 0, 0)), FRAME)


def box(start: int, stop: int, row: int = 5, column: int = 5) -> tuple[slice, slice, slice]:
    return slice(start, stop), slice(row, row + 6), slice(column, column + 6)


def kinds(today: Volume, earlier: Volume) -> list[tuple[str, int | None, tuple[int, ...], str]]:
    uids = {label: f"2.25.{label}" for label in range(1, 10)}
    return [
        (each.kind, each.label, each.earlier_labels, each.tracking_uid)
        for each in compare_lesions(today, earlier, np.eye(4), uids)
    ]


def test_each_fate_has_its_name() -> None:
    earlier = draw(box(2, 6), box(2, 10, column=15), box(2, 6, column=25), box(14, 18))
    today = draw(box(2, 12), box(2, 5, column=15), box(2, 6, column=25), box(14, 18, row=25, column=25))

    assert kinds(today, earlier) == [
        ("grown", 1, (1,), "2.25.1"),
        ("shrunk", 2, (2,), "2.25.2"),
        ("unchanged", 3, (3,), "2.25.3"),
        ("new", 4, (), ""),
        ("gone", None, (4,), "2.25.4"),
    ]


def test_merged_lesions_are_judged_by_their_sum_and_split_ones_keep_one_uid() -> None:
    apart, together = draw(box(2, 6), box(7, 11)), draw(box(2, 11))

    assert kinds(together, apart) == [("unchanged", 1, (1, 2), "2.25.1")]
    assert kinds(draw(box(2, 7), box(8, 11)), draw(box(2, 11))) == [
        ("unchanged", 1, (1,), "2.25.1"),
        ("unchanged", 2, (1,), ""),
    ]


def test_what_lies_outside_today_s_images_is_not_called_gone() -> None:
    earlier = draw(box(2, 6), box(15, 19, row=30, column=30))
    small = Volume(earlier.array[:10, :20, :20] * 0, earlier.affine, FRAME)

    assert [each[:2] for each in kinds(small, earlier)] == [("gone", None), ("not imaged", None)]


def test_a_change_that_is_small_in_millilitres_or_in_share_is_none() -> None:
    # 2 mm voxels: 36 a slice of the box are 0.288 ml.
    assert kinds(draw(box(2, 10)), draw(box(2, 9)))[0][0] == "unchanged"
    one = (slice(2, 3), slice(5, 7), slice(5, 7))
    two = (slice(2, 3), slice(5, 8), slice(5, 8))
    assert kinds(draw(two), draw(one))[0][0] == "unchanged"


def test_the_grids_need_not_be_the_same_and_the_link_is_obeyed() -> None:
    fine, coarse = (40, 80, 80), SHAPE
    earlier = draw((slice(4, 12), slice(10, 22), slice(10, 22)), spacing=1.0, shape=fine)
    shifted = np.eye(4)
    shifted[:3, 3] = (30.0, 0.0, 0.0)
    today = draw(box(2, 6), shape=coarse)
    today = Volume(today.array, axial_affine(coarse, (1.0, 1.0, 1.0), (0, 0, 0)), FRAME)
    moved = Volume(today.array, np.linalg.inv(shifted) @ today.affine, FRAME)

    assert [each.kind for each in compare_lesions(today, today, np.eye(4), {})] == ["unchanged"]
    assert [each.kind for each in compare_lesions(moved, today, shifted, {})] == ["unchanged"]
    assert [each.kind for each in compare_lesions(moved, today, np.eye(4), {})] == ["new", "gone"]
    assert earlier.array.any()


@pytest.mark.slow
def test_a_patient_who_lay_otherwise_is_followed(recipe: Recipe) -> None:
    """Six months later: the head turned and shifted, coronal slices, the left lesion grown, the right one gone, a new one in front."""
    before = draw_head((38, 90, 76), grid_affine((38, 90, 76), (3.6, 2.0, 2.0), directions=AXIAL), noise=8)
    first = run_pipeline({"flair": before}, recipe)
    to_head = np.eye(4)
    to_head[:3, :3] = rotation((1, -2, 3), 8)
    to_head[:3, 3] = (9.0, -4.0, 12.0)
    shape = (76, 80, 80)
    lesions = (Ball(LEFT_BALL.at_mm, 17.0), Ball((-20.0, -35.0, 25.0), 8.0))
    place = grid_affine(
        shape, (2.4, 1.9, 1.9), directions=CORONAL, centre_mm=-np.linalg.inv(to_head[:3, :3]) @ to_head[:3, 3]
    )
    today = draw_head(shape, place, lesions=lesions, patient_to_head=to_head, frame=FRAME + ".7", noise=8)
    second = run_pipeline({"flair": today}, recipe)
    earlier = Earlier(before, first.labels, {1: "2.25.1", 2: "2.25.2"}, "2.25.9", "20260101")

    followed = follow_up(second, today, earlier, recipe)

    assert followed.follow_up is not None
    told = [(each.kind, each.label, each.tracking_uid) for each in followed.follow_up.changes]
    assert told == [("grown", 1, "2.25.1"), ("new", 2, ""), ("gone", None, "2.25.2")]
    assert followed.follow_up.changes[0].earlier_ml == pytest.approx(LEFT_BALL.volume_ml, rel=0.1)
    assert followed.follow_up.changes[2].earlier_ml == pytest.approx(RIGHT_BALL.volume_ml, rel=0.15)
    assert followed.steps[-1].name == "follow_up"
    assert logged(followed, "follow_up")["earlier"] == "2.25.9"
    assert second.follow_up is None


@pytest.mark.slow
def test_an_earlier_image_without_a_brain_is_refused_by_name(recipe: Recipe) -> None:
    image = draw_head((38, 60, 50), grid_affine((38, 60, 50), (3.6, 3.0, 3.0), directions=AXIAL))
    result = run_pipeline({"flair": image}, recipe)
    dark = image.with_array(np.random.default_rng(1).random(image.array.shape).astype(np.float32))

    with pytest.raises(PipelineError):
        follow_up(result, image, Earlier(dark, result.labels, {}, "2.25.9"), recipe)
