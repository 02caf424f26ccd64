"""Studies of public field reports (../shared/cases/make_cases.py), written to files and read back: what their docstrings call right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import StudyRefused
from dicomnode.records import IndexedInstance
from dicomnode.settings.config import parse_config
from dicomnode.settings.study import SelectionSettings
from dicomnode.study.assembly import assemble
from dicomnode.study.choice import Selection
from dicomnode.study.headers import read_header
from dicomnode.study.selection import select_series
from dicomnode.volumes.study_images import load_study
from tests.factories.field_reports import Case, load_cases

# Case: description of the T1 and of the FLAIR ("" where none may be used), words that a finding holds, words that none holds.
RIGHT: dict[str, tuple[str, str, str, str]] = {
    "base": ("T1 3D MPRAGE", "T2 FLAIR tra", "", "."),
    "ge_proto_perfusion": ("Ax T1 BRAVO", "Ax T2 FLAIR", "", "."),
    "ge_proto_mra": ("Ax T1 BRAVO", "Ax T2 FLAIR", "", "."),
    "ge_proto_gad": ("Ax T1 BRAVO", "Ax T2 FLAIR", "", "."),
    "ge_proto_flair_t2": ("", "", "T2 weighted", "FLAIR is"),
    "t1_flair_no_timing_alone": ("", "", "contradict each other", "FLAIR is"),
    "philips_tof": ("T1W_SE", "T2 FLAIR tra", "", "."),
    "qsm_mag": ("t1_se_tra", "T2 FLAIR tra", "", "."),
    "fgatir": ("T1 3D MPRAGE", "T2 FLAIR tra", "", "."),
    "mp2rage": ("anat-MP2RAGE_UNI-DEN", "T2 FLAIR tra", "", "."),
    "dixon_flair": ("T1 3D MPRAGE", "t2_space_flair_dixon_W", "", "."),
    "pre_and_post_gad": ("* T1 AXIAL PRE GAD", "* FLAIR AXIAL", "", "."),
    "post_contrast_es": ("T1 3D", "T2 FLAIR tra", "", "."),
    "post_contrast_it": ("T1 3D", "T2 FLAIR tra", "", "."),
    "post_contrast_pt": ("T1 3D", "T2 FLAIR tra", "", "."),
}


@pytest.fixture(scope="module")
def cases(repo_root: Path) -> dict[str, Case]:
    return load_cases(repo_root)


def write(datasets: Sequence[Dataset], folder: Path) -> tuple[IndexedInstance, ...]:
    instances = []
    for index, dataset in enumerate(datasets):
        path = folder / f"{index:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        instances.append(IndexedInstance(str(path), float(index), read_header(path)))
    return tuple(instances)


@pytest.fixture(scope="module")
def written(
    cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[IndexedInstance, ...]]:
    """Return the instances of a case by its name; each is written once."""
    return functools.cache(lambda name: write(cases[name](name), tmp_path_factory.mktemp("case")))


def described(selection: Selection, role: Any) -> str:
    return selection.by_role[role].summary.SeriesDescription if role in selection.by_role else ""


@pytest.mark.parametrize("name", RIGHT)
def test_a_field_report_is_read_right(
    written: Callable[[str], tuple[IndexedInstance, ...]], name: str
) -> None:
    t1, flair, present, absent = RIGHT[name]
    instances = written(name)
    selection = select_series(assemble(instances[0].header.StudyInstanceUID, instances), SelectionSettings())
    assert (described(selection, "t1"), described(selection, "flair")) == (t1, flair), selection.sentences()
    messages = " ".join(finding.message for finding in selection.findings)
    assert present in messages
    assert absent not in messages


@pytest.mark.parametrize("name", ["philips_tof", "pre_and_post_gad", "t1_flair_no_timing_alone"])
def test_the_chosen_series_become_the_volumes(
    written: Callable[[str], tuple[IndexedInstance, ...]], name: str, tmp_path: Path
) -> None:
    instances = written(name)
    study = instances[0].header.StudyInstanceUID, instances, ()
    config = parse_config({"storage": {"root": str(tmp_path)}})
    t1, flair, present, _ = RIGHT[name]
    if not t1:
        with pytest.raises(StudyRefused, match=present):
            load_study(*study, config, tmp_path)
        return
    loaded = load_study(*study, config, tmp_path)
    assert {source.role: source.description for source in loaded.sources} == {"t1": t1, "flair": flair}
    shown = [finding.message for finding in loaded.selection.findings_of_use(["t1", "flair"])]
    assert shown[0].startswith("The T1 is series ")
    assert "2024-05-06 10:00:00, axial, 48 slices, 3.00 mm apart" in shown[0]
