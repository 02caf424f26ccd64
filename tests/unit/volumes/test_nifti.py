"""NIfTI in and out: exact in every orientation, and refused by name where a reader would have to guess."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicomnode.errors import StudyRefused
from dicomnode.volumes.nifti import read_nifti, write_nifti
from pipeline.errors import PipelineError
from pipeline.geometry import apply_affine
from pipeline.records import Volume
from tests.factories.nifti import save_nifti
from tests.factories.volumes import rotation

SHAPE = (5, 6, 7)


def marked() -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    array[1, 4, 5] = 7
    return array


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("turn", [0.0, 33.0], ids=["straight", "turned"])
def test_a_voxel_keeps_its_place_in_every_orientation(
    tmp_path: Path, signs: tuple[int, int, int], turn: float
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation((1, 2, 3), turn) @ np.diag(np.multiply(signs, (0.9, 1.1, 3.0)))
    affine[:3, 3] = (11, -7, 40)
    path = save_nifti(tmp_path / "image.nii.gz", marked(), affine, qform=1)

    volume = read_nifti(path, "1.2.3")

    (place,) = np.argwhere(volume.array == 7)
    ras = nib.affines.apply_affine(affine, (1, 4, 5))
    assert apply_affine(volume.affine, place) == pytest.approx(ras * (-1, -1, 1), abs=1e-5)


def test_what_is_written_is_read_back_by_others(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (rotation((1, -2, 1), 20) @ np.diag([3.0, 0.9, 1.1]))[:, ::-1]
    affine[:3, 3] = (4, 5, -6)
    volume = Volume(marked().astype(np.uint8), affine, "1.2.3")

    write_nifti(tmp_path / "mask.nii.gz", volume.array, volume.affine)

    image = nib.load(tmp_path / "mask.nii.gz")
    (place,) = np.argwhere(np.asarray(image.dataobj) == 7)
    for transform, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        ras = nib.affines.apply_affine(transform, place)
        assert apply_affine(affine, (1, 4, 5)) == pytest.approx(ras * (-1, -1, 1), abs=1e-4)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(read_nifti(tmp_path / "mask.nii.gz", "1.2.3").affine, affine, atol=1e-5)


def mirrored(path: Path) -> Path:
    image = nib.Nifti1Image(marked(), np.eye(4))
    image.set_sform(np.diag([-1.0, 1, 1, 1]), code=1)
    image.set_qform(np.eye(4), code=1)
    nib.save(image, path)
    return path


def flat(path: Path) -> Path:
    data = bytearray(gzip.decompress(save_nifti(path, marked(), np.eye(4)).read_bytes()))
    data[312:328] = bytes(16)  # srow_z
    path.write_bytes(gzip.compress(data))
    return path


def cut_off(path: Path) -> Path:
    save_nifti(path, np.random.default_rng(1).random(SHAPE), np.eye(4))
    path.write_bytes(path.read_bytes()[:-400])
    return path


def text(path: Path) -> Path:
    path.write_text("no image")
    return path


def coloured(path: Path) -> Path:
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), path)
    return path


def holed(path: Path) -> Path:
    array = marked()
    array[0, 0, 0] = np.nan
    return save_nifti(path, array, np.eye(4))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: save_nifti(path, np.zeros((5, 6, 7, 2), np.float32), np.eye(4)), "not-3d"),
        (lambda path: save_nifti(path, np.zeros((5, 6), np.float32), np.eye(4)), "not-3d"),
        (lambda path: save_nifti(path, marked().astype(np.complex64), np.eye(4)), "not-real"),
        (coloured, "not-real"),
        (lambda path: save_nifti(path, marked(), np.eye(4), sform=0, qform=0), "affine-missing"),
        (mirrored, "affine-contradiction"),
        (holed, "voxels-not-finite"),
        (flat, "affine-invalid"),
        (cut_off, "nifti-unreadable"),
        (text, "nifti-unreadable"),
        (lambda path: path, "nifti-unreadable"),
    ],
    ids=[
        "4D",
        "2D",
        "complex",
        "rgb",
        "no transform",
        "mirrored",
        "NaN",
        "flat",
        "cut off",
        "text",
        "absent",
    ],
)
def test_what_would_be_a_guess_is_refused_by_name(tmp_path: Path, make, code: str) -> None:
    with pytest.raises((StudyRefused, PipelineError)) as caught:
        read_nifti(make(tmp_path / "image.nii.gz"), "1.2.3")

    assert caught.value.code == code


def test_a_fourth_axis_of_one_is_no_fourth_axis(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "image.nii.gz", marked()[..., None], np.eye(4))

    assert read_nifti(path, "1.2.3").array.shape == SHAPE[::-1]
