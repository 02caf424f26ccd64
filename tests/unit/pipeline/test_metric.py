"""The quick metric against ITK's own, and the motions along one parameter against SimpleITK's transform."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from pipeline.preprocess.header_fit import PARAMETERS, _move
from pipeline.preprocess.metric import ImagePair, QuickMetric, evaluate


def _image(random: np.random.Generator, *, turned: bool) -> SimpleITK.Image:
    shape = random.integers(12, 40, 3).tolist()
    image = SimpleITK.GetImageFromArray(
        (1000 * ndimage.gaussian_filter(random.random(shape), 1.5) - random.integers(0, 900)).astype(
            np.float32
        )
    )
    spacing = random.uniform(1.0, 3.0, 3)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((-spacing * np.array(shape[::-1]) / 2 + random.uniform(-3, 3, 3)).tolist())
    if turned:
        transform = SimpleITK.Euler3DTransform((0, 0, 0), *random.uniform(-0.5, 0.5, 3).tolist())
        image.SetDirection(transform.GetMatrix())
    return image


def _pair(seed: int) -> tuple[np.random.Generator, ImagePair]:
    random = np.random.default_rng(seed)
    fixed, moving = _image(random, turned=seed % 3 == 1), _image(random, turned=seed % 3 == 2)
    mask = SimpleITK.GetImageFromArray((random.random(fixed.GetSize()[::-1]) < 0.7).astype(np.uint8))
    mask.CopyInformation(fixed)
    return random, ImagePair(fixed, mask, moving)


@pytest.mark.parametrize("seed", range(60))
def test_it_measures_what_itk_measures(seed: int) -> None:
    random, pair = _pair(seed)
    pair = pair.coarser(1 + seed % 2)
    metric = QuickMetric(pair)

    for _ in range(3):
        transform = SimpleITK.Euler3DTransform()
        transform.SetCenter(random.uniform(-5, 5, 3).tolist())
        transform.SetParameters([*random.uniform(-0.3, 0.3, 3).tolist(), *random.uniform(-8, 8, 3).tolist()])
        link = np.eye(4)
        link[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
        link[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
        expected = evaluate(pair, transform)
        assert expected < -1e-3
        assert metric.measure(link) == pytest.approx(expected, rel=1e-5)


def test_the_same_image_tells_most_about_itself() -> None:
    _, pair = _pair(0)
    metric = QuickMetric(ImagePair(pair.fixed, pair.mask, pair.fixed))
    aside = np.eye(4)
    aside[0, 3] = 4.0

    assert metric.measure(np.eye(4)) < 2 * metric.measure(aside) < 0


def test_nothing_is_told_where_the_images_do_not_meet() -> None:
    _, pair = _pair(0)
    far = np.eye(4)
    far[2, 3] = 1e4

    assert QuickMetric(pair).measure(far) == 0.0


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_even_image_tells_nothing(value: float) -> None:
    _, pair = _pair(0)
    even = pair.moving * 0 + value

    assert QuickMetric(ImagePair(pair.fixed, pair.mask, even)).measure(np.eye(4)) == pytest.approx(
        0.0, abs=1e-12
    )
    assert QuickMetric(ImagePair(pair.fixed * 0 + value, pair.mask, pair.moving)).measure(np.eye(4)) == (
        pytest.approx(0.0, abs=1e-12)
    )


@pytest.mark.parametrize("parameter", range(PARAMETERS))
@pytest.mark.parametrize("distance_mm", [-6.0, 2.0])
def test_a_motion_is_that_of_the_transform(parameter: int, distance_mm: float) -> None:
    middle = np.array([3.0, -11.0, 24.0])
    motion = [0.0] * PARAMETERS
    motion[parameter] = distance_mm / 70.0 if parameter < 3 else distance_mm
    transform = SimpleITK.Euler3DTransform()
    transform.SetCenter(middle.tolist())
    transform.SetParameters(motion)

    link = _move(parameter, distance_mm, middle, 70.0)

    for point in ((0.0, 0.0, 0.0), (10.0, -20.0, 5.0), (-3.0, 8.0, 90.0)):
        assert link[:3, :3] @ point + link[:3, 3] == pytest.approx(transform.TransformPoint(point), abs=1e-9)
