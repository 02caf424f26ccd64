"""N4 takes out a coil's shading and leaves an even image alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK

from pipeline.preprocess import correct_bias
from pipeline.preprocess.correct_bias import apply_bias_correction, plan_bias_correction


def two_tissues() -> tuple[np.ndarray, np.ndarray]:
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 48, 40)), indexing="ij"))
    radius = np.sqrt((index**2).sum(axis=0))
    image = np.where(radius < 0.6, 500.0, 350.0) * (radius < 0.9)
    noise = np.random.default_rng(5).normal(0, 8, image.shape)
    return (image + noise * (image > 0)).astype(np.float32), radius < 0.9


def spread(image: np.ndarray, part: np.ndarray) -> float:
    return float(image[part].std() / image[part].mean())


def test_shading_is_reduced() -> None:
    image, mask = two_tissues()
    shading = np.linspace(0.75, 1.35, 48, dtype=np.float32)[None, :, None]
    core = np.abs(image - 500) < 40

    corrected, strength = apply_bias_correction(image * shading, mask, plan_bias_correction((2.0, 2.0, 2.0)))

    assert spread(corrected, core) < 0.5 * spread(image * shading, core)
    assert 1.3 < strength < 2.2
    assert corrected.dtype == np.float32


def test_an_even_image_stays_even() -> None:
    image, mask = two_tissues()

    corrected, strength = apply_bias_correction(image, mask, plan_bias_correction((2.0, 2.0, 2.0)))

    assert np.abs(corrected[mask] / image[mask] - 1).mean() < 0.05
    assert strength < 1.2


def test_a_field_no_coil_makes_is_not_applied(monkeypatch: object) -> None:
    image, mask = two_tissues()
    monkeypatch.setattr(correct_bias, "STRONGEST_FIELD", 1.05)  # type: ignore[attr-defined]

    shaded = image * np.linspace(0.75, 1.35, 48, dtype=np.float32)[None, :, None]
    corrected, strength = apply_bias_correction(shaded, mask, plan_bias_correction((2.0, 2.0, 2.0)))

    assert np.array_equal(corrected, shaded)
    assert strength > 1.05


def test_the_same_image_gives_the_same_bits_on_any_number_of_cores(
    count_threads: Callable[[int], None],
) -> None:
    image, mask = two_tissues()
    plan = plan_bias_correction((2.0, 2.0, 2.0))
    corrected = []

    for count in (2, 2, 1, 4):
        count_threads(count)
        corrected.append(apply_bias_correction(image, mask, plan)[0].tobytes())

    assert len(set(corrected)) == 1


def test_thick_slices_are_not_shrunk() -> None:
    assert plan_bias_correction((6.0, 1.0, 2.0)).shrink == (1, 6, 3)


@pytest.mark.parametrize("seed", range(6))
def test_the_field_is_the_filters_own_at_every_voxel(seed: int) -> None:
    """Against the filter's own, slower, way of computing every voxel."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(24, 70, 3).tolist())
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    mask = (index**2).sum(axis=0) < 0.9
    shading = np.exp((index * random.uniform(-0.3, 0.3, 3)[:, None, None, None]).sum(axis=0))
    image = (mask * shading * random.choice([300.0, 500.0], shape)).astype(np.float32)
    filtering = SimpleITK.N4BiasFieldCorrectionImageFilter()
    filtering.SetMaximumNumberOfIterations((5, 5, 5)[: 1 + seed % 3])
    full, inside = SimpleITK.GetImageFromArray(image), SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    filtering.Execute(SimpleITK.Shrink(full, (3, 2, 4)), SimpleITK.Shrink(inside, (3, 2, 4)))

    field = correct_bias._read_field(filtering, shape, 2 ** (seed % 3))

    expected = SimpleITK.GetArrayFromImage(filtering.GetLogBiasFieldAsImage(full))
    assert np.ptp(expected) > 0.02
    assert np.abs(field - expected).max() < 2e-4 * np.ptp(expected) + 2e-5
