"""A raw dataset read: sessions, contrast agent, several images of a kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.offline.bids.dataset import find_bids_cases, is_bids
from dicomnode.offline.bids.names import CaseLabel


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = [
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_ce-gd_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii",
        "sub-02/anat/sub-02_run-1_FLAIR.nii.gz",
        "sub-02/anat/sub-02_run-2_FLAIR.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-03/dwi/sub-03_dwi.nii.gz",
        "sub-b ad/anat/sub-b ad_T1w.nii.gz",
        "derivatives/other/sub-09/anat/sub-09_T1w.nii.gz",
        "dataset_description.json",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_cases_are_subjects_and_sessions(root: Path) -> None:
    cases = {case.label.stem: case for case in find_bids_cases(root)}

    assert is_bids(root)
    assert not is_bids(root / "sub-01")
    assert list(cases) == ["sub-01_ses-a", "sub-01_ses-b", "sub-02", "sub-03"]
    assert {role: path.name for role, path in cases["sub-01_ses-a"].files.items()} == {
        "t1": "sub-01_ses-a_T1w.nii.gz",
        "flair": "sub-01_ses-a_FLAIR.nii.gz",
    }
    assert cases["sub-01_ses-b"].files == {"flair": Path("sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii")}
    assert "neither a T1w nor a FLAIR" in cases["sub-03"].problem


def test_several_images_are_a_question_and_select_answers_it(root: Path) -> None:
    asked = {case.label.stem: case for case in find_bids_cases(root)}["sub-02"]
    answered = {case.label.stem: case for case in find_bids_cases(root, "run-2")}["sub-02"]

    assert "2 FLAIR images (sub-02_run-1_FLAIR.nii.gz, sub-02_run-2_FLAIR.nii.gz)" in asked.problem
    assert asked.files == {}
    assert answered.files["flair"].name == "sub-02_run-2_FLAIR.nii.gz"
    assert answered.files["t1"].name == "sub-02_T1w.nii.gz"
    assert answered.problem == ""


@pytest.mark.parametrize("label", ["", "a-b", "a b", "ä", "../x"])
def test_labels_are_letters_and_digits(label: str) -> None:
    with pytest.raises(ValueError, match="no BIDS label"):
        CaseLabel(label)
