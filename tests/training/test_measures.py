"""What the cards say about kept cavities, and which painted lesions count as cortical."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.records import Volume
from pipeline.training import cavities
from pipeline.training.cards import brain_sections
from pipeline.training.implant import PAINT_GRID, PreparedHead, paint_outline
from pipeline.training.measure_real import find_nothing
from pipeline.training.real_cases import RealCase
from pipeline.training.synthesis.fields import Dice
from tests.training.test_synthesis import write_map


def make_head(depth_mm: float) -> PreparedHead:
    """A head that is a block of tissue; the ball of `write_map` (10 mm, 30 mm left, 30 up) ends `depth_mm` below its upper face."""
    affine = np.eye(4)[[2, 1, 0, 3]]
    affine[:3, 3] = (-80.0, -96.0, -80.0)
    inside = torch.zeros(PAINT_GRID.shape, dtype=torch.bool)
    inside[20 : 80 + 40 + int(depth_mm), 20:170, 20:140] = True
    image = torch.where(inside, 1.0, 0.05)
    image[20:30] = 0.1
    image += 0.001 * Dice(0).normal(*PAINT_GRID.shape)
    # Indices to template coordinates (up, back, left): the reversal of the axes, as in `prepare_head`.
    return PreparedHead({"t1": image, "flair": image}, inside, affine, np.eye(4)[[2, 1, 0, 3]] @ affine)


def test_a_cavity_is_painted_only_where_it_reaches_the_cortex(tmp_path: Path) -> None:
    path = write_map(tmp_path / "ball.nii.gz")

    shallow, deep = make_head(-6.0), make_head(20.0)
    painted = paint_outline(shallow, path, Dice(1), cavity=True)

    assert painted is not None
    mask, changes = painted
    assert 2500 < float(mask.sum()) < 4189
    assert float((shallow.images["t1"] + changes["t1"])[mask].mean()) < 0.6
    assert paint_outline(deep, path, Dice(1), cavity=True) is None
    assert paint_outline(deep, path, Dice(1)) is not None


def test_each_image_of_a_head_gets_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(np.ones((4, 4, 4), np.float32), np.eye(4), "0")
    case = RealCase(
        "head", {"t1": volume, "flair": volume}, "flair", {"t1": np.eye(4), "flair": np.eye(4)}, lesion=volume
    )
    seen: list[Any] = []

    def run(painted: RealCase, roles: tuple[str, ...], recipe: Any, segmenter: Any) -> tuple[str, ...]:
        seen.append((painted.name, roles, segmenter))
        return roles

    monkeypatch.setattr(
        cavities,
        "paint_cases",
        lambda recipe, cases, maps, each, cavities: [replace(c, name="painted") for c in cases],
    )
    monkeypatch.setattr(cavities, "run_case", run)
    monkeypatch.setattr(
        cavities,
        "score_lesion",
        lambda painted, roles: {"truth_ml": 2.0, "kept": 0.5 if roles == ("t1",) else 1.0},
    )

    rows = cavities.measure_kept_real(None, [case], [], 1)  # type: ignore[arg-type]

    assert seen == [("painted", ("t1",), find_nothing), ("painted", ("flair",), find_nothing)]
    assert [(row["input"], row["kept"]) for row in rows] == [("t1", 0.5), ("flair", 1.0)]
    section = brain_sections([], [{"kept": 0.9}, {"kept": 1.0}], rows)[
        "Cortical lesions kept inside the mask"
    ]
    assert "2 fresh synthetic heads" in section
    assert "mask 0.950, worst 0.900, 50 % keep" in section
    assert "2 images of real heads" in section
    assert "mask 0.750, worst 0.500, 50 % keep" in section
