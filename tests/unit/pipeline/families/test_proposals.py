"""Boxes by hand: what a slice proposes, which slices belong together, which rectangle they settle on, how a region grows."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.segmenters.proposal3d.proposals import (
    Group,
    Rectangle,
    box_of,
    drop_contained,
    find_boxes,
    find_rectangle,
    group_slices,
    grow,
    settle_rectangle,
)
from pipeline.segmenters.proposal3d.segment import propose
from pipeline.segmenters.proposal3d.spec import ProposalSpec

WHOLE = np.ones((10, 8, 8), bool)


def test_a_slice_proposes_what_encloses_its_pieces() -> None:
    heat = np.zeros((8, 9), np.float32)
    heat[1:3, 1:3], heat[5:8, 6:8], heat[4, 4] = 0.6, 0.9, 1.0

    assert find_rectangle(heat, 0.5, 4) == Rectangle(1, 8, 1, 8)
    assert find_rectangle(heat, 0.7, 4) == Rectangle(5, 8, 6, 8)
    assert find_rectangle(heat, 0.5, 7) is None
    assert find_rectangle(heat * 0, 0.5, 1) is None


def test_overlap_is_intersection_over_union() -> None:
    assert Rectangle(0, 4, 0, 4).overlap(Rectangle(2, 6, 0, 4)) == pytest.approx(8 / 24)
    assert Rectangle(0, 4, 0, 4).overlap(Rectangle(4, 6, 0, 4)) == 0


def test_a_group_is_as_long_as_its_proposals_reach() -> None:
    one = Rectangle(0, 2, 0, 2)

    groups = group_slices([None, one, None, one, None, None], WHOLE[:6], 0.2, 0.7)

    assert groups == [Group(1, 3, (one, one))]


def test_a_lesion_in_the_very_last_slices_is_a_group() -> None:
    """The original appends a group when the next one opens, and loses the last."""
    one = Rectangle(0, 2, 0, 2)

    assert group_slices([None] * 8 + [one, one], WHOLE, 0.2, 0.7) == [Group(8, 9, (one, one))]
    assert group_slices([None] * 9 + [one], WHOLE, 0.2, 0.7) == [Group(9, 9, (one,))]


@pytest.mark.parametrize(("rows", "same"), [(8, True), (7, True), (6, False)])
def test_a_group_ends_where_the_head_changes(rows: int, same: bool) -> None:
    """Of 8 rows: 7 are a change of an eighth, 6 of a quarter, which is more than a fifth."""
    heads, one = WHOLE[:2].copy(), Rectangle(0, 2, 0, 2)
    heads[1, rows:] = False

    groups = group_slices([one, one], heads, 0.2, 0.7)

    assert groups == ([Group(0, 1, (one, one))] if same else [Group(0, 0, (one,)), Group(1, 1, (one,))])


def test_a_group_ends_where_the_head_moves_though_its_area_stays() -> None:
    heads, one = np.zeros((2, 8, 8), bool), Rectangle(0, 2, 0, 2)
    heads[0, :5], heads[1, 3:] = True, True

    assert len(group_slices([one, one], heads, 0.2, 0.7)) == 2


def test_a_group_is_held_against_its_first_slice() -> None:
    """Each slice is a tenth smaller than the one before: the third is a fifth smaller than the first, the fourth more."""
    heads, one = np.zeros((4, 10, 10), bool), Rectangle(0, 2, 0, 2)
    for number in range(4):
        heads[number, : 10 - number] = True

    assert [(group.first, group.last) for group in group_slices([one] * 4, heads, 0.2, 0.7)] == [
        (0, 2),
        (3, 3),
    ]


def test_the_most_frequent_rectangle_is_averaged_and_the_odd_one_left_out() -> None:
    near = [Rectangle(0, 10, 0, 10), Rectangle(1, 10, 0, 10), Rectangle(0, 10, 0, 9)]

    assert settle_rectangle([*near, Rectangle(20, 24, 20, 24)], 0.7) == Rectangle(0, 10, 0, 10)


def test_rectangles_that_never_agree_are_enclosed() -> None:
    assert settle_rectangle([Rectangle(0, 4, 0, 4), Rectangle(6, 9, 5, 7)], 0.7) == Rectangle(0, 9, 0, 7)


def test_a_group_becomes_a_box() -> None:
    assert box_of(Group(3, 5, (Rectangle(1, 2, 3, 4),)), 0.7) == ((3, 6), (1, 2), (3, 4))


def test_a_box_grows_about_its_middle_and_stays_inside() -> None:
    assert grow(((10, 12), (0, 3), (38, 40)), (8, 8, 8), (40, 40, 40)) == ((7, 15), (0, 8), (32, 40))
    assert grow(((0, 30), (5, 6), (5, 6)), (8, 8, 8), (40, 6, 7)) == ((0, 30), (0, 6), (0, 7))


def test_a_box_inside_another_is_dropped_whichever_came_first() -> None:
    large, small, beside = ((0, 9), (0, 9), (0, 9)), ((2, 4), (2, 4), (2, 4)), ((8, 12), (0, 9), (0, 9))

    assert drop_contained([small, large, beside, large]) == [large, beside]


def test_pieces_of_a_whole_map_become_boxes() -> None:
    found = np.zeros((6, 7, 8), np.float32)
    found[1:3, 2:4, 5:8], found[5, 0, 0] = 1.0, 1.0

    assert find_boxes(found, 0.5, 8) == [((1, 3), (2, 4), (5, 8))]


def test_the_coarse_pass_brings_back_what_every_slice_missed() -> None:
    """Slices see the first lesion only; the coarse pass sees both; switched off, the second one is lost as in the original."""
    image = np.ones((1, 40, 16, 16), np.float32)
    heat, coarse = np.zeros_like(image), np.zeros_like(image)
    heat[0, 2:5, 2:6, 2:6] = 1.0
    coarse[0, 36:40, 10:14, 10:14] = 1.0
    graphs = {"model-proposal.onnx": lambda _: heat, "model-coarse.onnx": lambda _: coarse}

    def regions(*, backed: bool) -> list[object]:
        spec = ProposalSpec((40, 16, 16), 0.5, 4, 0.2, 0.7, 0.7, backed, 0.5)
        return list(propose(spec, graphs, image, (8, 8, 8))[0])

    assert regions(backed=True) == [((0, 8), (0, 8), (0, 8)), ((32, 40), (8, 16), (8, 16))]
    assert regions(backed=False) == [((0, 8), (0, 8), (0, 8))]
