"""Intensity scales: the numbers of the manifest, held against the training code's."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import BundleError, ImageError
from pipeline.preprocess.normalize import apply_normalization


def image() -> np.ndarray:
    values = np.random.default_rng(3).gamma(3.0, 100.0, (12, 14, 16)).astype(np.float32)
    values[:3] = 0.0
    values[3, :2] = -5.0
    return values


def brain() -> np.ndarray:
    mask = np.zeros((12, 14, 16), bool)
    mask[5:10, 3:11, 4:12] = True
    return mask


def test_the_brain_s_median_becomes_one() -> None:
    scaled, used = apply_normalization("brain-median", image(), brain(), {"clip": [0.0, 3.0]})

    assert np.median(scaled[brain()]) == pytest.approx(1.0)
    assert not scaled[~brain()].any()
    assert scaled.max() <= 3.0
    assert used["median"] == pytest.approx(float(np.median(image()[brain()])))


def test_percentiles_of_what_is_above_zero_become_zero_and_one() -> None:
    scaled, used = apply_normalization("percentile", image(), None, {"low": 0.5, "high": 99.5})

    positive = image() > 0
    assert not scaled[~positive].any()
    assert scaled.max() == 1.0
    assert (scaled[positive] == 1.0).mean() == pytest.approx(0.005, abs=0.002)
    assert used["low"] < used["high"]


@pytest.mark.train
def test_both_schemes_are_the_training_code_s() -> None:
    torch = pytest.importorskip("torch")
    from pipeline.training.synthesis.subject import scale_by_brain_median, scale_by_percentiles

    median = apply_normalization("brain-median", image(), brain(), {"clip": [0.0, 3.0]})[0]
    percentile = apply_normalization("percentile", image(), None, {"low": 0.5, "high": 99.5})[0]

    # torch takes the lower middle value as the median of an even count.
    assert median == pytest.approx(
        scale_by_brain_median(torch.from_numpy(image()), torch.from_numpy(brain())).numpy(), rel=5e-3
    )
    assert percentile == pytest.approx(scale_by_percentiles(torch.from_numpy(image())).numpy(), abs=1e-5)


@pytest.mark.parametrize("signal", [0.0, -3.0])
def test_a_brain_without_signal_is_refused(signal: float) -> None:
    with pytest.raises(ImageError) as caught:
        apply_normalization("brain-median", np.full((12, 14, 16), signal, np.float32), brain(), {})

    assert caught.value.code == "brain-without-signal"


def test_an_empty_head_is_refused() -> None:
    with pytest.raises(ImageError) as caught:
        apply_normalization("percentile", np.zeros((4, 4, 4), np.float32), None, {})

    assert caught.value.code == "no-positive-voxels"


@pytest.mark.parametrize(("scheme", "mask"), [("min-max", None), ("brain-median", None)])
def test_a_scheme_that_cannot_be_applied_is_the_manifest_s_fault(scheme: str, mask: None) -> None:
    with pytest.raises(BundleError) as caught:
        apply_normalization(scheme, image(), mask, {})

    assert caught.value.code == "model-manifest-invalid"


def test_the_z_score_is_of_the_brain_or_of_the_whole_crop() -> None:
    masked, used = apply_normalization("z-score", image(), brain(), {})
    whole, _ = apply_normalization("z-score", image(), None, {})

    assert (masked[brain()].mean(), masked[brain()].std()) == pytest.approx((0, 1), abs=1e-4)
    assert not masked[~brain()].any()
    assert used["of"] == "brain"
    assert (whole.mean(), whole.std()) == pytest.approx((0, 1), abs=1e-4)
    assert whole[0, 0, 0] < 0


def test_one_value_has_no_z_score() -> None:
    with pytest.raises(ImageError):
        apply_normalization("z-score", np.ones((4, 4, 4), np.float32), np.ones((4, 4, 4), bool), {})
