"""Pixel Padding Value and Range Limit: which stored values are padding, and what they become."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.volumes.padding import background_of, find_padding


def declared(value: int, limit: int | None = None, representation: int = 0) -> Dataset:
    dataset = Dataset()
    dataset.PixelRepresentation = representation
    dataset.add_new("PixelPaddingValue", "SS" if representation else "US", value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", "SS" if representation else "US", limit)
    return dataset


@pytest.mark.parametrize(
    ("dtype", "dataset", "padding"),
    [
        (np.uint16, declared(63536), [63536]),
        (np.uint16, declared(63000, 65535), [63000, 64000, 65535]),
        (np.uint16, declared(65535, 63000), [63000, 64000, 65535]),
        (np.int16, declared(-2000, representation=1), [-2000]),
        # The same bits, written in the other sign.
        (np.int16, declared(63536), [-2000]),
        (np.int16, declared(-32768, -2000, representation=1), [-32768, -2000, -2001]),
    ],
)
def test_padding_is_found_in_either_sign_and_as_a_range(
    dtype: type, dataset: Dataset, padding: list[int]
) -> None:
    image = np.array([0, 1, 700, 4095], dtype=dtype)

    found = find_padding(np.concatenate([image, np.array(padding, dtype=dtype)]), dataset)

    assert found is not None
    assert found.tolist() == [False] * len(image) + [True] * len(padding)


def test_without_a_declaration_nothing_is_padding() -> None:
    assert find_padding(np.zeros(4, np.uint16), Dataset()) is None


@pytest.mark.parametrize(
    ("lowest", "slope", "intercept", "stored"),
    [(3.0, 1.0, 0.0, 0), (-50.0, 1.0, 0.0, -50), (-50.0, 2.0, -100.0, 25), (3.0, 0.5, -10.0, 20)],
)
def test_background_is_no_signal_or_the_lowest_value(
    lowest: float, slope: float, intercept: float, stored: int
) -> None:
    transform = Dataset()
    transform.RescaleSlope, transform.RescaleIntercept = slope, intercept

    assert background_of(lowest, transform, np.array([5], np.int16)) == stored


def test_background_stays_within_the_stored_type() -> None:
    transform = Dataset()
    transform.RescaleSlope, transform.RescaleIntercept = 1.0, 1000.0

    assert background_of(1005.0, transform, np.array([5], np.uint16)) == 0
