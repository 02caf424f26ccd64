"""The three functions of the package: imported when they are asked for, and refusing by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import dicomnode
from pipeline.errors import CaseRefused
from pipeline.records import Volume
from tests.factories.nifti import save_volume


def save_mask(path: Path, *voxels: tuple[int, int, int]) -> Path:
    array = np.zeros((4, 6, 8), np.uint8)
    for voxel in voxels:
        array[voxel] = 1
    save_volume(path, Volume(array, np.diag((3.0, 2.0, 2.0, 1.0)), "2.25.1"))
    return path


def test_the_package_is_light_until_a_function_is_asked_for(repo_root: Path) -> None:
    program = (
        "import sys, dicomnode; heavy = {'numpy', 'pydicom', 'onnxruntime'}; print(heavy & set(sys.modules));"
        "print(sorted(set(dicomnode.__all__) - set(dir(dicomnode))))"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=repo_root, capture_output=True, text=True, check=True
    )

    assert answer.stdout.split("\n")[:2] == ["set()", "[]"]


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'segmentt'"):
        dicomnode.segmentt  # type: ignore[attr-defined]  # noqa: B018


def test_masks_are_compared_with_their_truth(tmp_path: Path) -> None:
    prediction = save_mask(tmp_path / "prediction.nii.gz", (1, 2, 3), (1, 2, 4))
    truth = save_mask(tmp_path / "truth.nii.gz", (1, 2, 3))

    (score,) = dicomnode.evaluate(prediction, str(truth))

    assert score.dice == pytest.approx(2 / 3)
    assert score.predicted_ml == pytest.approx(0.024)


def test_a_bundle_is_found_by_name_and_by_folder(repo_root: Path) -> None:
    by_name = dicomnode.load_bundle("brain-extractor-3mm")

    assert by_name.task == "brain"
    assert dicomnode.load_bundle(by_name.folder) == by_name
    with pytest.raises(CaseRefused, match="no-such-network"):
        dicomnode.load_bundle("no-such-network")


def test_senseless_calls_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give t1=, flair= or both"):
        dicomnode.segment()
    with pytest.raises(ValueError, match="between 0 and 1"):
        dicomnode.segment(flair=tmp_path / "flair.nii.gz", threshold=7)
    nowhere = nibabel.nifti1.Nifti1Image(np.zeros((4, 4, 4), np.float32), None)
    with pytest.raises(CaseRefused, match="the FLAIR has neither qform nor sform") as refusal:
        dicomnode.segment(flair=nowhere)
    assert refusal.value.code == "affine-missing"
