from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicomnode.results.companions.preview import choose_key_slices, montage_png, outline
from tests.factories.results import Answered, answered_study, make_result


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered_study(tmp_path_factory.mktemp("study"))


def test_lesions_are_outlined_on_the_side_where_they_are(answered: Answered) -> None:
    picture = pixels(montage_png(answered.volume, answered.result))
    red = (np.abs(picture - [255, 51, 51]) < 2).all(axis=-1)

    axial = red[:320, :320]
    # Lesion 1 lies to the patient's left and behind the middle: right half and lower half of an axial picture.
    assert axial.sum() > 40
    assert np.argwhere(axial)[:, 1].min() > 160
    assert np.argwhere(axial)[:, 0].mean() > 160


def test_the_picture_does_not_depend_on_how_the_slices_run(tmp_path: Path) -> None:
    grids = [
        {"plane": plane, "shape": (40, 40, 40), "spacing_mm": (5.0, 5.0, 5.0), "reverse": reverse}
        for plane, reverse in (("axial", False), ("axial", True), ("coronal", True), ("sagittal", False))
    ]
    places = []
    for number, grid in enumerate(grids):
        study = answered_study(tmp_path / str(number), roles=("flair",), flair=grid)
        picture = pixels(montage_png(study.volume, study.result))
        red = np.argwhere((np.abs(picture - [255, 51, 51]) < 2).all(axis=-1)[:320, :960])
        places.append([red[(red[:, 1] // 320) == tile].mean(axis=0) for tile in range(3)])

    assert np.allclose(places, places[0], atol=10)


def test_the_warning_is_in_the_pixels_and_the_bytes_repeat(answered: Answered) -> None:
    png = montage_png(answered.volume, answered.result)
    banner = pixels(png)[-28:]

    assert ((banner[..., 0] > 200) & (banner[..., 2] < 60)).sum() > 300
    assert png == montage_png(answered.volume, answered.result)


def test_a_picture_without_lesions_shows_the_whole_head(answered: Answered) -> None:
    result = make_result(np.zeros_like(answered.result.labels.array), answered.volume)
    picture = pixels(montage_png(answered.volume, result))

    assert picture.shape == (3 * 320 + 28, 960, 3)
    assert (picture[:-28].max(axis=-1) == picture[:-28].min(axis=-1)).all()


def test_a_flat_image_is_drawn_too(answered: Answered) -> None:
    flat = answered.volume.with_array(np.ones_like(answered.volume.array))

    assert pixels(montage_png(flat, replace(answered.result, measurements=()))).shape[1] == 960


def test_outline_is_the_rim_of_each_label() -> None:
    labels = np.zeros((6, 7), dtype=int)
    labels[1:5, 1:4] = 1
    labels[1:5, 4:6] = 2

    assert outline(labels).sum() == 18
    assert not outline(labels)[2:4, 2].any()


def test_key_slices_follow_the_largest_lesions() -> None:
    labels = np.zeros((20, 9, 9), dtype=int)
    labels[3:6, 2:5, 2:5] = 1
    labels[4, 1:7, 1:7] = 1
    labels[11, 2, 2] = 2

    assert choose_key_slices(labels) == [11, 4]
    assert len(choose_key_slices(np.zeros((20, 9, 9), dtype=int))) == 6
