"""Synthetic heads: same seed same head, lesions of the volume that was asked for, nothing that is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.training.synthesis.deformation import draw_coordinates
from pipeline.training.synthesis.fields import Dice, Grid, apply_along, gaussian_matrix, smooth_noise
from pipeline.training.synthesis.lesion_maps import LesionMapError, list_maps, read_map
from pipeline.training.synthesis.lesions import SMALLEST_PIECE, draw_procedural, draw_real
from pipeline.training.synthesis.subject import (
    Case,
    scale_by_brain_median,
    scale_by_percentiles,
    synthesise_head_case,
    synthesise_lesion_case,
)
from pipeline.training.synthesis.tissue import Brain, draw_brain
from pipeline.training.synthesis.visibility import find_shown

GRID = Grid((80, 96, 80), (2.0, 2.0, 2.0))
SMALL = Grid((40, 48, 40), (4.0, 4.0, 4.0))


def make_brain(anatomy: Any, seed: int) -> tuple[Brain, Dice]:
    """One brain without image, and the generator that goes on from it."""
    dice = Dice(seed)
    return draw_brain(anatomy, draw_coordinates(anatomy, GRID, dice), GRID, dice), dice


def write_map(path: Path, zooms: tuple[float, float, float] = (1, 1, 1), *, empty: bool = False) -> Path:
    """A ball of 10 mm radius left of the midline in MNI space."""
    shape = (60, 60, 60)
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = (-60.0, -40.0, 0.0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    ball = (np.linalg.norm(index - 30, axis=-1) < 10) & (not empty)
    nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), affine), path)
    return path


@pytest.mark.parametrize("make", [synthesise_lesion_case, synthesise_head_case])
def test_same_seed_gives_same_case(anatomy: Any, make: Any) -> None:
    first, again, other = (
        make(anatomy, 3, (), SMALL),
        make(anatomy, 3, (), SMALL),
        make(anatomy, 4, (), SMALL),
    )

    assert torch.equal(first.image, again.image)
    assert torch.equal(first.label, again.label)
    assert not torch.equal(first.image, other.image)


def test_a_compared_case_is_the_same_case_and_says_where_its_lesions_show(anatomy: Any) -> None:
    seed = next(n for n in range(20) if synthesise_lesion_case(anatomy, n, (), SMALL).label.sum() > 50)
    plain = synthesise_lesion_case(anatomy, seed, (), SMALL)
    compared = synthesise_lesion_case(anatomy, seed, (), SMALL, compared=True)

    assert plain.shown is None
    assert torch.equal(plain.image, compared.image)
    assert torch.equal(plain.label, compared.label)
    assert compared.shown is not None
    assert compared.shown.shape == compared.image.shape
    assert not (compared.shown & ~compared.label).any()
    assert compared.shown.any()


def test_a_change_of_a_tenth_of_the_brain_shows() -> None:
    bare, brain = torch.full((4, 4, 4), 2.0), torch.ones(4, 4, 4, dtype=torch.bool)
    painted = bare.clone()
    painted[0, 0, 0], painted[1, 1, 1], painted[2, 2, 2] = 2.21, 1.79, 2.19

    assert find_shown(painted, bare, brain).nonzero().tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("seed", range(6))
def test_cases_are_finite_and_scaled(anatomy: Any, seed: int) -> None:
    lesion: Case = synthesise_lesion_case(anatomy, seed, (), SMALL)
    head: Case = synthesise_head_case(anatomy, seed, (), SMALL)

    assert torch.isfinite(lesion.image).all()
    assert 0.0 <= float(lesion.image.min()) <= float(lesion.image.max()) <= 3.0
    assert torch.isfinite(head.image).all()
    assert 0.0 <= float(head.image.min()) <= float(head.image.max()) <= 1.0
    assert head.label.any()


@pytest.mark.parametrize("volume_ml", [1.0, 5.0, 30.0, 120.0])
def test_procedural_lesion_has_the_volume_that_was_asked_for(anatomy: Any, volume_ml: float) -> None:
    for seed in range(3):
        brain, dice = make_brain(anatomy, 100 + seed)

        shape = draw_procedural(brain, GRID, dice, volume_ml)

        assert shape is not None
        assert volume_ml == pytest.approx(float(shape.mask.sum()) * 0.008, rel=0.05)


def test_procedural_lesion_has_few_pieces_and_none_tiny(anatomy: Any) -> None:
    counts = []
    for seed in range(8):
        brain, dice = make_brain(anatomy, 200 + seed)
        shape = draw_procedural(brain, GRID, dice, 20.0)
        assert shape is not None
        labels, count = ndimage.label(shape.mask.numpy(), np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        counts.append(count)

        assert sizes.max() >= 0.5 * sizes.sum()
        assert (sizes >= 0.2 * SMALLEST_PIECE * sizes.sum()).mean() >= 0.5

    assert np.mean(counts) <= 4


def test_lesions_lie_inside_the_brain_and_outside_the_ventricles(anatomy: Any) -> None:
    brain, dice = make_brain(anatomy, 300)

    shape = draw_procedural(brain, GRID, dice, 40.0)

    assert shape is not None
    assert not (shape.mask & ~brain.inside).any()
    assert not (shape.mask & (brain.ventricle_mm <= 0)).any()


def test_real_map_lands_where_it_was_drawn(anatomy: Any, tmp_path: Path) -> None:
    path = write_map(tmp_path / "ball.nii.gz")
    brain, dice = make_brain(anatomy, 5)

    shape = draw_real(brain, GRID, dice, [path])

    assert shape is not None
    # The ball lies at x -30, y -10, z 30 (RAS): 30 mm left of the midline, or right of it when mirrored.
    middle = brain.positions[shape.mask].mean(dim=0)
    assert abs(float(middle[0]) - 30) < 8
    assert abs(float(middle[1]) - 10) < 8
    assert abs(abs(float(middle[2])) - 30) < 8


def test_read_map_keeps_volume_and_left(tmp_path: Path) -> None:
    outline = read_map(write_map(tmp_path / "ball.nii.gz"))

    assert outline.volume_ml == pytest.approx(4 / 3 * np.pi, rel=0.05)
    centre = outline.origin_mm[2] + (outline.mask.shape[3] - 1) / 2
    assert centre == pytest.approx(30.0, abs=0.6)


def test_unusable_maps_are_named(tmp_path: Path) -> None:
    with pytest.raises(LesionMapError, match=r"no \*\.nii\.gz"):
        list_maps(tmp_path, held_out=False)
    with pytest.raises(LesionMapError, match="1 mm voxels"):
        read_map(write_map(tmp_path / "coarse.nii.gz", (2, 2, 2)))
    with pytest.raises(LesionMapError, match="empty"):
        read_map(write_map(tmp_path / "empty.nii.gz", empty=True))


def test_held_out_maps_are_never_trained_on(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"map-{number}.nii.gz").touch()

    training, unseen = list_maps(tmp_path, held_out=False), list_maps(tmp_path, held_out=True)

    assert len(training) + len(unseen) == 40
    assert len(unseen) == 4
    assert not set(training) & set(unseen)


def test_real_maps_hold_out_a_tenth(real_data: Path) -> None:
    assert len(list_maps(real_data / "stroke-lesion-maps", held_out=True)) == 144


def test_scaling_refuses_an_empty_mask() -> None:
    image = torch.ones(4, 4, 4)

    with pytest.raises(ValueError, match="not positive"):
        scale_by_brain_median(image, torch.zeros(4, 4, 4, dtype=torch.bool))


def test_percentile_scaling_leaves_zeros_alone() -> None:
    image = torch.zeros(10, 10, 10)
    image[2:8] = torch.linspace(100, 900, 600).reshape(6, 10, 10)

    scaled = scale_by_percentiles(image)

    assert float(scaled[:2].abs().sum()) == 0.0
    assert float(scaled.max()) == 1.0


def test_noise_has_unit_scale_and_blur_keeps_the_mean() -> None:
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.0))
    noise = smooth_noise(grid, 8.0, Dice(1))
    ramp = torch.arange(20.0)[:, None, None].expand(20, 3, 3)

    assert 0.6 < float(noise.std()) < 1.4
    assert torch.allclose(apply_along(ramp, gaussian_matrix(20, 1.0), 0)[10], ramp[10], atol=1e-4)
