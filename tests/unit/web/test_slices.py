"""Slices of the viewer: the outline's pixels lie on the planted lesion, in every plane and for every orientation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicomnode.volumes.nifti import write_nifti
from dicomnode.web.prepare import prepare
from dicomnode.web.prepared import Case, PreparedCases
from dicomnode.web.slices import PLANES, Look, Plane, draw_slice, lesion_color
from dicomnode.web.sources import FolderSource

BRIGHT = 1000.0


def make_case(folder: Path, order: tuple[int, int, int], flips: tuple[int, int, int]) -> Case:
    """Prepare an answer whose images lie in the file along other axes; the lesion is the one bright spot.

    In the patient it is at 20..29 mm to the head, 30..49 mm to the back, 10..15 mm to the left.
    """
    anat = folder / "out" / "anat"
    anat.mkdir(parents=True)
    image = np.full((40, 64, 48), 100.0, np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[20:30, 30:50, 10:16] = 1
    image[labels > 0] = BRIGHT
    # Index to LPS mm of the upright grid: head, back, left.
    affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        step[source, axis] = -1 if flip else 1
        step[source, 3] = image.shape[source] - 1 if flip else 0
    turn = tuple(axis for axis in range(3) if flips[axis])
    for name, array in (("desc-input_FLAIR", image), ("desc-lesions_dseg", labels)):
        moved = np.ascontiguousarray(np.flip(array.transpose(order), turn))
        write_nifti(anat / f"sub-1_{name}.nii.gz", moved, affine @ step)
    prepare(FolderSource(folder / "out"), folder / "images" / "case")
    case = PreparedCases(folder / "images", 2**32).find("case")
    assert case is not None
    return case


def picture(case: Case, plane: Plane, index: int, **look: object) -> np.ndarray:
    chosen = Look(
        **{"low": 0.0, "high": 2000.0, "outlines": True, "opacity": 0.0, "probability": False, **look}
    )  # type: ignore[arg-type]
    return np.asarray(Image.open(io.BytesIO(draw_slice(case, "flair", plane, index, chosen)))).astype(int)


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), (0, 0, 0)), ((2, 0, 1), (1, 0, 1)), ((1, 2, 0), (0, 1, 1))]
)
def test_outlines_lie_on_the_lesion_in_every_plane(
    tmp_path: Path, order: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    case = make_case(tmp_path, order, flips)
    middle = case.lesions[0]["index"]
    assert case.shape == (40, 64, 48)
    for plane, index in zip(PLANES, middle, strict=True):
        plain = picture(case, plane, index, outlines=False)
        drawn = picture(case, plane, index)
        colored = np.argwhere((drawn == lesion_color(1)).all(axis=-1))
        bright = np.argwhere(plain[..., 0] > 80)
        assert len(colored) > 50
        assert np.abs(colored.mean(axis=0) - bright.mean(axis=0)).max() < 4
        assert np.abs(colored.min(axis=0) - bright.min(axis=0)).max() < 8
        assert np.abs(colored.max(axis=0) - bright.max(axis=0)).max() < 8


def test_the_patients_left_is_on_the_right_and_the_face_is_up(tmp_path: Path) -> None:
    case = make_case(tmp_path, (0, 1, 2), (0, 0, 0))
    axial = picture(case, "axial", 25, outlines=False)
    coronal = picture(case, "coronal", 40, outlines=False)

    # 10..15 of 48 to the left, 30..49 of 64 to the back, 20..29 of 40 to the head.
    row, column = np.argwhere(axial[..., 0] > 80).mean(axis=0) / axial.shape[:2]
    assert (row, column) == pytest.approx((40 / 64, 13 / 48), abs=0.02)
    row, column = np.argwhere(coronal[..., 0] > 80).mean(axis=0) / coronal.shape[:2]
    assert (row, column) == pytest.approx((1 - 25 / 40, 13 / 48), abs=0.02)


def test_opacity_fills_and_no_outline_leaves_the_image_grey(tmp_path: Path) -> None:
    case = make_case(tmp_path, (0, 1, 2), (0, 0, 0))

    grey = picture(case, "axial", 25, outlines=False)
    assert (grey[..., 0] == grey[..., 1]).all()
    filled = picture(case, "axial", 25, outlines=False, opacity=0.5)
    assert (filled != grey).any(axis=-1).sum() > 1000


def test_lesions_are_measured_on_the_grid(tmp_path: Path) -> None:
    case = make_case(tmp_path, (0, 1, 2), (0, 0, 0))

    assert case.lesions[0]["ml"] == pytest.approx(1.2)
    facts = json.loads((case.folder / "case.json").read_text())
    assert facts["roles"] == ["flair"]
