"""Whole heads measured: what counts as false volume, whose studies are taken, and the tables."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.records import Volume
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_cases import RealCase
from pipeline.training.real_volumes import VolumeRow, describe_rows, read_heads, score_volume, take_people

ROW = VolumeRow("head", "old", "7", "flair", "network")


def make_case(truth: np.ndarray, found: np.ndarray, brain: np.ndarray) -> tuple[RealCase, Any]:
    """Return a painted case of 1 mm voxels and what a network answered."""
    flair = Volume(np.zeros(truth.shape, np.float32), np.eye(4), "0")
    case = RealCase(
        "head",
        {"flair": flair},
        "flair",
        {"flair": np.eye(4)},
        lesion=flair.with_array(truth.astype(np.float32)),
    )
    answer = SimpleNamespace(
        labels=flair.with_array(found.astype(np.uint8)),
        brain_mask=flair.with_array(brain.astype(np.uint8)),
        reference_role="flair",
        lesions=[SimpleNamespace(label=1, mean_probability=0.75, voxel_count=int(found.sum()))],
    )
    return case, answer


def test_false_volume_is_counted_by_where_it_lies() -> None:
    shape = (40, 40, 40)
    truth, found, brain = (np.zeros(shape, bool) for _ in range(3))
    brain[2:38, 2:38, 2:38] = True
    truth[18:22, 18:22, 18:22] = True
    found[18:22, 18:22, 18:22] = True
    found[22:24, 18:22, 18:22] = True  # next to the lesion: 32 voxels
    found[3:5, 10:12, 10:12] = True  # at the edge of the brain: 8 voxels
    found[14:16, 10:12, 28:30] = True  # further inside: 8 voxels

    row = score_volume(ROW, *make_case(truth, found, brain))
    plain = score_volume(ROW, None, make_case(truth, found, brain)[1])

    assert (row.truth_ml, row.found_ml) == pytest.approx((0.064, 0.112))
    assert (row.halo_ml, row.rim_ml, row.inner_ml) == pytest.approx((0.032, 0.008, 0.008))
    assert row.false_ml == pytest.approx(0.048)
    assert (row.findings, plain.findings) == ("0.7500:0.1120:1", "0.7500:0.1120:0")
    assert row.dice == pytest.approx(2 * 64 / (64 + 112))
    assert (plain.truth_ml, plain.halo_ml, plain.rim_ml) == pytest.approx((0.0, 0.0, 0.008))
    assert plain.inner_ml == pytest.approx(0.104)


def test_one_study_a_person_and_the_one_with_two_images() -> None:
    volume = Volume(np.zeros((2, 2, 2), np.float32), np.eye(4), "0")

    def case(name: str, *roles: str, free: bool = True) -> RealCase:
        return RealCase(name, dict.fromkeys(roles, volume), roles[0], stroke_free=free)

    heads = [case("a-study1", "flair", "t1"), case("a-study2", "flair"), case("tumour", "flair", free=False)]

    assert [head.name for head in take_people(heads)] == ["a-study1"]


def test_a_folder_without_heads_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingProblem, match="holds no real head"):
        read_heads(tmp_path)


def test_tables_count_refused_heads_and_name_the_worst() -> None:
    rows = [
        VolumeRow("a", "plain", "", "flair", "n", found_ml=1.0, inner_ml=1.0),
        VolumeRow("b", "plain", "", "flair", "n", found_ml=3.0, rim_ml=3.0),
        VolumeRow("c", "plain", "", "flair", "n", refused="no head"),
        VolumeRow("a", "acute", "7", "flair", "n", truth_ml=2.0, found_ml=1.0, dice=0.5, halo_ml=0.25),
    ]

    text = describe_rows(rows)

    assert "| flair | n | 2 | 2.0 | 3.0 (b) | 1.5 | 0.5 | 1 |" in text
    assert "| acute | flair | n | 1 | 0.50 | 0.50 | 1.00 | -50 % | 0.2 | 0.0 | 0.0 |" in text
