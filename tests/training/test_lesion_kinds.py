"""Kinds of lesion by their place, and the table by kind."""

from __future__ import annotations

import pytest
import torch

from pipeline.measure.regions.choice import choose_region_map
from pipeline.training.lesion_kinds import describe_kinds, kind_of
from pipeline.training.score_slices import SliceScore
from pipeline.training.synthesis.lesion_maps import LesionMap


@pytest.mark.parametrize(
    ("mni_mm", "kind"),
    [
        ((-45.0, -20.0, 50.0), "cortical"),
        ((45.0, 30.0, 15.0), "cortical"),
        ((-26.0, 0.0, 4.0), "deep"),
        ((12.0, -18.0, 8.0), "deep"),
        ((30.0, -65.0, -35.0), "infratentorial"),
        ((0.0, -28.0, -32.0), "infratentorial"),
    ],
)
def test_a_ball_is_of_the_kind_of_its_place(mni_mm: tuple[float, float, float], kind: str) -> None:
    right, anterior, up = mni_mm
    mask = torch.zeros(1, 7, 7, 7)
    mask[:, 1:6, 1:6, 1:6] = 1.0
    outline = LesionMap("made", mask, (up - 3, -anterior - 3, -right - 3))

    assert kind_of(outline, choose_region_map()) == kind


def test_the_table_counts_people_and_slices() -> None:
    scores = [
        SliceScore("axial", 1, 0.5, 100, 100, 50, shown=True),
        SliceScore("coronal", 1, 0.0, 100, 0, 0, shown=True),
        SliceScore("axial", 2, 0.9, 100, 100, 90, shown=True),
        SliceScore("axial", 3, 0.0, 10, 0, 0, shown=True),
    ]

    text = describe_kinds(scores, {1: "deep", 2: "cortical", 3: "infratentorial"})

    assert "| deep | 1 | 2 | 0.25 | 0.25 | 0.50 |" in text
    assert "| cortical | 1 | 1 | 0.90 | 0.90 | 1.00 |" in text
    assert "infratentorial" not in text
