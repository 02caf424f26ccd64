"""Noise, motion and contrast are measured, and each limit is shown to be broken and kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.geometry import Grid, axial_affine, grid_of
from pipeline.preprocess.extract_brain import apply_brain_threshold
from pipeline.preprocess.resample import sample_linear
from pipeline.quality import gates
from pipeline.quality.gates import (
    LARGEST_GHOSTING,
    Quality,
    _find_brain,
    find_quality_remarks,
    measure_quality,
)
from pipeline.quality.ghosting import measure_ghosting
from pipeline.quality.noise import PLENTY, measure_snr
from pipeline.quality.trained_range import find_range_remarks, measure_quantiles
from pipeline.records import Array, Volume
from tests.factories.volumes import AXIAL, FRAME, draw_head, grid_affine, rotation

SHAPE, SPACING = (20, 128, 112), (6.0, 2.0, 2.0)
GOOD = Quality(30.0, 0.002, 1450.0, {"p10": 0.7, "p90": 1.2})


@pytest.fixture(scope="module")
def head() -> Array:
    return draw_head(SHAPE, grid_affine(SHAPE, SPACING, directions=AXIAL)).array


def magnitude(image: Array, sigma: float, seed: int = 5) -> Array:
    """Add the noise of a magnitude image: Rician."""
    noise = np.random.default_rng(seed).normal(0, sigma, (2, *image.shape))
    return np.hypot(image + noise[0], noise[1]).astype(np.float32)


def move_during_scan(image: Array, axis: int, shift_voxels: float) -> Array:
    """Return the image of a head that nods back and forth between phase-encoding steps along `axis`."""
    phase = np.fft.fftfreq(image.shape[axis])
    lines = np.arange(image.shape[axis])
    moved = np.exp(-2j * np.pi * phase * shift_voxels * np.sin(lines * 0.9))
    spectrum = np.fft.fft(image, axis=axis) * np.expand_dims(moved, tuple(k for k in range(3) if k != axis))
    answer: Array = np.abs(np.fft.ifft(spectrum, axis=axis)).astype(np.float32)
    return answer


@pytest.mark.parametrize("sigma", [8.0, 40.0, 110.0])
def test_the_noise_is_found_in_a_head_with_edges(head: Array, sigma: float) -> None:
    noisy = head + np.random.default_rng(2).normal(0, sigma, head.shape)

    assert measure_snr(noisy, head > 150) == pytest.approx(np.median(head[head > 150]) / sigma, rel=0.1)


def test_an_image_without_noise_has_plenty_and_no_brain_has_none(head: Array) -> None:
    assert measure_snr(np.full(SHAPE, 7.0), np.ones(SHAPE, bool)) == PLENTY
    assert measure_snr(head, np.zeros(SHAPE, bool)) == 0.0


@pytest.mark.parametrize("axis", [1, 2])
def test_a_head_that_moves_leaves_ghosts_along_the_phase(head: Array, axis: int) -> None:
    still = measure_ghosting(magnitude(head, 8), head > 150, SPACING)
    moved = measure_ghosting(magnitude(move_during_scan(head, axis, 3.0), 8), head > 150, SPACING)

    assert still is not None
    assert moved is not None
    assert still < 0.005
    assert moved > LARGEST_GHOSTING


def masked_air(head: Array) -> Array:
    return np.where(head > 50, magnitude(head, 8), 0)


def no_air(head: Array) -> Array:
    return magnitude(head, 8)[:, 24:104, 24:88]


@pytest.mark.parametrize("change", [masked_air, no_air])
def test_without_air_to_judge_there_is_no_number(head: Array, change: object) -> None:
    image: npt.NDArray[np.float32] = change(head)  # type: ignore[operator]

    assert measure_ghosting(image, image > 150, SPACING) is None
    assert measure_ghosting(image, np.zeros(image.shape, bool), SPACING) is None


def test_quantiles_are_free_of_the_scanner_s_scale() -> None:
    values = np.arange(1.0, 102.0).reshape(1, 1, -1)

    seen = measure_quantiles(values, np.ones(values.shape, bool))

    assert seen == pytest.approx(measure_quantiles(7 * values, np.ones(values.shape, bool)))
    assert (seen["p10"], seen["p90"]) == pytest.approx((11 / 51, 91 / 51))
    assert measure_quantiles(values, np.zeros(values.shape, bool)) == {}
    assert measure_quantiles(-values, np.ones(values.shape, bool)) == {}


def test_only_what_lies_outside_the_range_is_told() -> None:
    trained = {"p10": (0.5, 0.8), "p90": (1.1, 1.3)}

    (remark,) = find_range_remarks("flair", {"p10": 0.7, "p90": 2.0}, trained)

    assert (remark.code, remark.grade) == ("outside-trained-range", "warning")
    assert remark.value == "flair: p90 2.00 (trained 1.10 to 1.30)"
    assert find_range_remarks("flair", {"p10": 0.7, "p90": 1.2}, trained) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"snr": 3.2}, "low-snr"),
        ({"ghosting": 0.06}, "motion-suspected"),
        ({"brain_ml": 850.0}, "brain-volume-unusual"),
        ({"brain_ml": 2050.0}, "brain-volume-unusual"),
        ({"quantiles": {"p90": 2.5}}, "outside-trained-range"),
    ],
)
def test_each_limit_is_told_with_its_value(change: dict[str, object], code: str) -> None:
    (remark,) = find_quality_remarks("t1", replace(GOOD, **change), {"p90": (1.1, 1.3)})  # type: ignore[arg-type]

    assert remark.code == code
    assert any(digit.isdigit() for digit in remark.value)
    assert find_quality_remarks("t1", GOOD, {"p90": (1.1, 1.3)}) == []
    assert find_quality_remarks("t1", replace(GOOD, ghosting=None), {}) == []


def test_an_image_is_judged_in_its_own_space(head: Array) -> None:
    image = draw_head(SHAPE, grid_affine(SHAPE, SPACING, directions=AXIAL))
    shape = (44, 60, 48)
    grid = Grid(shape, axial_affine(shape, (4.0, 4.0, 4.0), (0, 0, 0)), FRAME)
    coarse = draw_head(shape, grid.affine)
    brain = apply_brain_threshold(coarse.with_array((coarse.array / 400).clip(0, 1).astype(np.float32)), 0.5)

    seen = measure_quality(image.with_array(magnitude(image.array, 20)), brain, (2.0, 2.0, 2.0))

    assert seen.snr == pytest.approx(20, rel=0.1)
    assert seen.ghosting == pytest.approx(0, abs=0.005)
    assert seen.brain_ml == pytest.approx(1370, rel=0.05)
    assert 0.8 < seen.quantiles["p10"] < 1 < seen.quantiles["p90"] < 1.2


def test_a_part_of_fine_voxels_has_the_quantiles_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    image = draw_head(SHAPE, grid_affine(SHAPE, SPACING, directions=AXIAL))
    shape = (44, 60, 48)
    grid = Grid(shape, axial_affine(shape, (4.0, 4.0, 4.0), (0, 0, 0)), FRAME)
    soft = (draw_head(shape, grid.affine).array / 400).clip(0, 1).astype(np.float32)
    noisy = image.with_array(magnitude(image.array, 20))

    part = measure_quality(noisy, apply_brain_threshold(grid.fill(soft), 0.5), (1.0, 1.0, 1.0))
    monkeypatch.setattr(gates, "QUANTILE_STEP_MM", 1.0)
    all_of_it = measure_quality(noisy, apply_brain_threshold(grid.fill(soft), 0.5), (1.0, 1.0, 1.0))

    assert part.quantiles != all_of_it.quantiles
    assert part.quantiles == pytest.approx(all_of_it.quantiles, abs=0.005)


@pytest.mark.parametrize("seed", range(40))
def test_the_brain_is_looked_for_where_it_lies(seed: int) -> None:
    """Only the brain's box is looked at; what is found there is what a look at every voxel finds."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(8, 40, 3).tolist())
    affine = np.eye(4)
    affine[:3, :3] = rotation(tuple(random.uniform(-1, 1, 3)), random.uniform(0, 40)) @ np.diag(
        random.uniform(1.0, 6.0, 3)
    )
    # Also brains that the image shows half of, or nothing of.
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2) + random.uniform(-60, 60, 3)
    image = Volume(random.random(shape, np.float32), affine, FRAME)
    extractor = Grid((30, 30, 30), axial_affine((30, 30, 30), (3.0, 3.0, 3.0), (0, 0, 0)), FRAME)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in extractor.shape), indexing="ij"), axis=-1)
    soft = np.exp(-(((index - random.uniform(8, 20, 3)) / random.uniform(3, 9, 3)) ** 2).sum(axis=-1))
    # An island beside it, which the mask leaves out.
    soft[2, 2, 2] = 0.9 if seed % 2 else 0.0
    brain = apply_brain_threshold(extractor.fill(soft.astype(np.float32)), 0.5)

    box, inside = _find_brain(image, brain)

    everywhere = sample_linear(brain.soft, grid_of(image)) >= brain.threshold
    assert np.array_equal(inside, everywhere)
    assert inside[box].sum() == everywhere.sum()
