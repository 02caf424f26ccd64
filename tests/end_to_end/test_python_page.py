"""The page on Python says what happens: its examples are run on the demonstration's study."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dicomnode.simulator import author
from dicomnode.volumes.nifti import write_nifti
from tests.factories.dicom import voxel_centres


def truth_on_flair(study: np.lib.npyio.NpzFile) -> npt.NDArray[np.uint8]:
    """Return the planted lesions, which lie on the grid of the T1, on that of the FLAIR: the nearest voxel's."""
    centres = voxel_centres(study["flair_affine"], study["flair"].shape)
    to_index = np.linalg.inv(study["t1_affine"])
    index = np.rint(centres @ to_index[:3, :3].T + to_index[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < study["truth"].shape)).all(axis=-1)
    labels = np.zeros(study["flair"].shape, np.uint8)
    labels[inside] = study["truth"][tuple(index[inside].T)]
    return labels


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_of_the_page_give_what_it_says(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = np.load(Path(author.__file__).parent / "demo_study.npz")
    images = {"t1": (study["t1"], study["t1_affine"]), "flair": (study["flair"], study["flair_affine"])}
    images["truth"] = truth_on_flair(study), study["flair_affine"]
    for name, (array, affine) in images.items():
        write_nifti(tmp_path / f"{name}.nii.gz", array, affine)
    monkeypatch.chdir(tmp_path)

    outcome = doctest.testfile(str(repo_root / "docs" / "python.md"), module_relative=False)

    assert outcome.attempted >= 10
    assert outcome.failed == 0
