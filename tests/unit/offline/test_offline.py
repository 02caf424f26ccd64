"""`dicomnode segment` on files: BIDS derivatives on the source's own grid, refusals by name, runs that go on where they stopped."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from dicomnode.offline import batch, cases
from dicomnode.offline.batch import answer_cases, open_output, write_tables
from dicomnode.offline.bids.derivatives import read_table
from dicomnode.offline.cases import (
    OfflineAnswer,
    OfflineTask,
    answer_case,
    bids_cases,
    dicom_cases,
    find_finished,
    nifti_case,
)
from dicomnode.records import Role
from dicomnode.settings.config import Config, parse_config
from dicomnode.simulator.author import author_series, derive_uid, write_series
from pipeline.records import Volume
from tests.factories.dicom import phantom_study
from tests.factories.nifti import save_volume
from tests.factories.onnx import known_brain_bundle, known_lesion_bundle
from tests.factories.volumes import AXIAL, LEFT_BALL, RIGHT_BALL, SAGITTAL, draw_head, grid_affine, rotation

SHAPE, SPACING = (44, 84, 70), (3.4, 2.2, 2.2)
AFFINE = grid_affine(SHAPE, SPACING, directions=AXIAL)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    known_lesion_bundle(folder)
    known_brain_bundle(folder)
    return folder


@pytest.fixture
def config(models: Path, tmp_path: Path) -> Config:
    return settings(models, tmp_path)


def settings(models: Path, root: Path, **pipeline: Any) -> Config:
    pipeline = {
        "models": str(models),
        "lesion_model": "known-lesion",
        "brain_model": "known-brain",
        "require_head": False,
        "bias_correction": False,
        **pipeline,
    }
    return parse_config({"storage": {"root": str(root)}, "pipeline": pipeline, "compute": {"threads": 1}})


@pytest.fixture(scope="module")
def head() -> Volume:
    return draw_head(SHAPE, AFFINE)


def segment(config: Config, files: Mapping[Role, Path], output: Path) -> OfflineAnswer:
    return answer_case(OfflineTask(nifti_case(files), config, output))


def written(output: Path, answer: OfflineAnswer, name: str) -> Path:
    return output / answer.label.folder / "anat" / f"{answer.label.stem}_{name}"


MIRRORED = np.array(AXIAL) * [[1], [1], [-1]]
GRIDS: dict[str, tuple[tuple[int, int, int], tuple[float, float, float], Any]] = {
    "axial": (SHAPE, SPACING, AXIAL),
    "left-handed": (SHAPE, SPACING, MIRRORED),
    "turned": (SHAPE, SPACING, np.array(AXIAL) @ rotation((1, 2, 3), 25).T),
    "sagittal, left-handed": ((70, 84, 74), (2.2, 2.2, 2.0), np.array(SAGITTAL) * [[-1], [1], [1]]),
    "10 mm slices": ((15, 84, 70), (10.0, 2.2, 2.2), AXIAL),
}


@pytest.mark.parametrize("name", GRIDS)
def test_lesions_keep_their_side_and_place_on(name: str, config: Config, tmp_path: Path) -> None:
    shape, spacing, directions = GRIDS[name]
    affine = grid_affine(shape, spacing, directions=directions)
    path = save_volume(tmp_path / "sub-1_FLAIR.nii.gz", draw_head(shape, affine))

    answer = segment(config, {"flair": path}, tmp_path / "out")

    assert answer.outcome == "lesions", answer.summary
    source, labels = nib.load(path), nib.load(written(tmp_path / "out", answer, "desc-lesions_dseg.nii.gz"))
    assert labels.shape == source.shape
    assert np.allclose(labels.affine, source.affine, atol=1e-4)
    rows = read_table(written(tmp_path / "out", answer, "desc-lesions_dseg.tsv"))
    assert [row["index"] for row in rows] == ["1", "2"]
    for row, ball in zip(rows, (LEFT_BALL, RIGHT_BALL), strict=True):
        marked = np.argwhere(np.asarray(labels.dataobj) == int(row["index"]))
        middle_lps = nib.affines.apply_affine(labels.affine, marked).mean(axis=0) * (-1, -1, 1)
        assert middle_lps == pytest.approx([float(row[f"{axis}_lps_mm"]) for axis in "xyz"], abs=0.02)
        assert np.sign(middle_lps[0]) == np.sign(ball.at_mm[0])
        assert row["laterality"] == ("left" if ball is LEFT_BALL else "right")
        assert np.linalg.norm(middle_lps - ball.at_mm) < max(spacing)
        if ball is LEFT_BALL:
            assert float(row["volume_ml"]) == pytest.approx(
                ball.volume_ml, rel=0.05 if max(spacing) < 5 else 0.15
            )


def test_a_case_is_written_as_bids_derivatives(config: Config, head: Volume, tmp_path: Path) -> None:
    path = save_volume(tmp_path / "flair.nii.gz", head)

    answer = segment(config, {"flair": path}, tmp_path / "out")

    stem = answer.label.stem
    assert sorted(item.name for item in (tmp_path / "out" / stem / "anat").iterdir()) == sorted(
        f"{stem}_{name}"
        for name in (
            *("label-L_mask.nii.gz", "label-L_mask.json", "label-L_probseg.nii.gz", "label-L_probseg.json"),
            *(
                "desc-brain_mask.nii.gz",
                "desc-brain_mask.json",
                "desc-input_FLAIR.nii.gz",
                "desc-input_FLAIR.json",
            ),
            *("desc-lesions_dseg.nii.gz", "desc-lesions_dseg.json", "desc-lesions_dseg.tsv"),
        )
    )
    described = json.loads(written(tmp_path / "out", answer, "desc-lesions_dseg.json").read_text())
    assert set(read_table(written(tmp_path / "out", answer, "desc-lesions_dseg.tsv"))[0]) <= {
        "index",
        "name",
        *described,
    }
    told = json.loads(written(tmp_path / "out", answer, "label-L_mask.json").read_text())
    assert (told["Type"], told["Threshold"]) == ("Lesion", 0.5)
    assert (
        told["Sources"] == [told["SpatialReference"]] == [f"bids::{stem}/anat/{stem}_desc-input_FLAIR.nii.gz"]
    )
    assert [model["name"] for model in told["Models"]] == ["known-lesion", "known-brain"]
    assert len(told["Models"][0]["sha256"]) == 64
    mask, probability = (
        np.asarray(nib.load(written(tmp_path / "out", answer, f"label-L_{n}.nii.gz")).dataobj)
        for n in ("mask", "probseg")
    )
    assert set(np.unique(mask)) == {0, 1}
    assert ((mask > 0) <= (probability >= 0.5)).all()
    kept = np.asarray(nib.load(written(tmp_path / "out", answer, "desc-input_FLAIR.nii.gz")).dataobj)
    assert np.array_equal(kept, np.asarray(nib.load(path).dataobj))


def test_a_manifest_that_cuts_elsewhere_is_not_skipped(head: Volume, tmp_path: Path) -> None:
    known_lesion_bundle(tmp_path / "models")
    known_brain_bundle(tmp_path / "models")
    path = save_volume(tmp_path / "flair.nii.gz", head)
    task = OfflineTask(nifti_case({"flair": path}), settings(tmp_path / "models", tmp_path), tmp_path / "out")
    answer_case(task)
    assert find_finished(task)

    manifest = tmp_path / "models" / "known-lesion" / "0.1.0" / "model.toml"
    as_made = manifest.read_text()
    for old, new in (('"threshold" = 0.5', '"threshold" = 0.6'), ('"step" = 0.5', '"step" = 0.6')):
        assert old in as_made
        manifest.write_text(as_made.replace(old, new))
        assert not find_finished(task)
    manifest.write_text(as_made)
    assert find_finished(task)


def with_nan(head: Volume) -> Volume:
    array = head.array.copy()
    array[3, 4, 5] = np.nan
    bad = object.__new__(Volume)
    for name, value in (
        ("array", array),
        ("affine", head.affine),
        ("frame_of_reference_uid", head.frame_of_reference_uid),
    ):
        object.__setattr__(bad, name, value)
    return bad


def resized(head: Volume, spacing: tuple[float, float, float]) -> Volume:
    return Volume(head.array, grid_affine(SHAPE, spacing, directions=AXIAL), head.frame_of_reference_uid)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (with_nan, "voxels-not-finite"),
        (lambda head: head.with_array(np.zeros_like(head.array)), "zero-range"),
        (lambda head: Volume(head.array[20:21], head.affine, head.frame_of_reference_uid), "too-few-slices"),
        (lambda head: resized(head, (3.4, 0.2, 2.2)), "spacing-out-of-range"),
        (lambda head: resized(head, (12.0, 2.2, 2.2)), "spacing-out-of-range"),
        # The limits themselves may be used; that head is too small to be one.
        (lambda head: resized(head, (3.4, 0.3, 2.2)), "brain-implausible"),
    ],
    ids=["NaN", "all zero", "single slice", "0.2 mm", "12 mm", "0.3 mm"],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    spoil: Callable[[Volume], Volume], code: str, config: Config, head: Volume, tmp_path: Path
) -> None:
    path = save_volume(tmp_path / "flair.nii.gz", spoil(head))

    answer = segment(config, {"flair": path}, tmp_path / "out")

    assert (answer.outcome, answer.summary.split(":")[0]) == ("refused", code)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


@pytest.mark.parametrize("degrees", [0.0, 31.0])
def test_exactly_the_finest_voxels_are_not_refused_for_their_rounding(degrees: float, tmp_path: Path) -> None:
    """0.3 mm in a header of 32-bit numbers, turned, is a little less or more than 0.3."""
    from dicomnode.volumes.nifti import read_nifti
    from pipeline.preprocess.check_inputs import check_inputs

    affine = grid_affine(
        (6, 7, 8), (0.3, 0.3, 10.0), directions=np.array(AXIAL) @ rotation((1, 2, 3), degrees).T
    )
    path = save_volume(
        tmp_path / "fine.nii.gz", Volume(np.arange(336, dtype=np.float32).reshape(6, 7, 8), affine, "1.2")
    )

    assert check_inputs({"flair": read_nifti(path, "1.2")})["flair"].spacing_mm == pytest.approx(
        (0.3, 0.3, 10.0), abs=1e-6
    )


def test_a_zero_t1_beside_a_good_flair_is_refused_by_name(
    config: Config, head: Volume, tmp_path: Path
) -> None:
    flair = save_volume(tmp_path / "flair.nii.gz", head)
    t1 = save_volume(tmp_path / "t1.nii.gz", head.with_array(np.zeros_like(head.array)))

    answer = segment(config, {"flair": flair, "t1": t1}, tmp_path / "out")

    assert (answer.outcome, answer.summary) == ("refused", "zero-range: every voxel of the T1 is 0")


@pytest.mark.slow
def test_a_t1_that_does_not_overlap_is_left_out_and_named(
    config: Config, head: Volume, tmp_path: Path
) -> None:
    away = grid_affine(SHAPE, SPACING, directions=AXIAL, centre_mm=(400, 0, 0))
    flair, t1 = (
        save_volume(tmp_path / f"{n}.nii.gz", Volume(head.array, affine, "1.2"))
        for n, affine in (("f", AFFINE), ("t", away))
    )

    answer = segment(config, {"flair": flair, "t1": t1}, tmp_path / "out")

    (sidecar,) = (tmp_path / "out").rglob("*_label-L_mask.json")
    findings = {finding["code"]: finding for finding in json.loads(sidecar.read_text())["Findings"]}
    assert answer.outcome == "lesions"
    assert findings["registration-failed"]["grade"] == "refuse"
    assert (
        "The T1 was not used, the result rests on the FLAIR alone"
        in findings["registration-failed"]["message"]
    )


@pytest.fixture
def dataset(head: Volume, tmp_path: Path) -> Path:
    """Three subjects, the second one spoilt."""
    root = tmp_path / "raw"
    for subject, array in (
        ("01", head.array),
        ("02", np.zeros_like(head.array)),
        ("03", head.array[:, ::-1].copy()),
    ):
        save_volume(root / f"sub-{subject}/anat/sub-{subject}_FLAIR.nii.gz", head.with_array(array))
    (root / "sub-04" / "anat").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "three heads", "BIDSVersion": "1.10.0"}')
    return root


def run(
    config: Config, root: Path, output: Path, *, jobs: int = 1, overwrite: bool = False
) -> dict[str, OfflineAnswer]:
    tasks = [OfflineTask(case, config, output) for case in bids_cases(root, "")]
    open_output(config, output, root)
    answers = answer_cases(tasks, jobs, overwrite, lambda _text: None, lambda _answer: None)
    write_tables(output, answers)
    return {answer.label.stem: answer for answer in answers}


class InThisProcess:
    """Stands for the worker processes, which are tested with `Compute` itself."""

    def __init__(self, _settings: object, workers: int) -> None:
        self.workers = workers

    def run(
        self, function: Callable[[OfflineTask], OfflineAnswer], task: OfflineTask, **_limits: object
    ) -> OfflineAnswer:
        return function(task)

    def close(self) -> None:
        """Nothing runs."""


@pytest.mark.timeout(400)
def test_one_failing_subject_never_stops_the_others_and_a_later_run_goes_on(
    config: Config, models: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "Compute", InThisProcess)
    output = tmp_path / "out"

    first = run(config, dataset, output)
    second = run(config, dataset, output)
    other_threshold = run(settings(models, tmp_path, threshold=0.6), dataset, output)

    assert {stem: answer.outcome for stem, answer in first.items()} == {
        "sub-01": "lesions", "sub-02": "refused", "sub-03": "lesions", "sub-04": "refused",
    }  # fmt: skip
    assert {stem: answer.outcome for stem, answer in second.items()} == {
        "sub-01": "skipped", "sub-02": "refused", "sub-03": "skipped", "sub-04": "refused",
    }  # fmt: skip
    assert other_threshold["sub-01"].outcome == "lesions"
    cases = {row["participant_id"]: row for row in read_table(output / "cases.tsv")}
    assert "zero-range" in cases["sub-02"]["result"]
    assert "neither a T1w nor a FLAIR" in cases["sub-04"]["result"]
    with (output / "lesions.csv").open(newline="") as handle:
        assert {row["case"]: row["laterality"] for row in csv.DictReader(handle) if row["label"] == "1"} == {
            "sub-01": "left",
            "sub-03": "left",
        }
    told = json.loads((output / "sub-01/anat/sub-01_label-L_mask.json").read_text())
    assert told["SpatialReference"] == "bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"
    assert json.loads((output / "dataset_description.json").read_text())["DatasetLinks"] == {
        "raw": os.path.relpath(dataset, output)
    }
    assert not (output / ".partial").exists()


def test_a_bug_in_one_subject_is_its_outcome_without_values(
    config: Config, head: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("value of Doe^Jane")

    path = save_volume(tmp_path / "flair.nii.gz", head)
    stale = tmp_path / "out" / nifti_case({"flair": path}).label.folder / "anat"
    stale.mkdir(parents=True)
    monkeypatch.setattr(cases, "run_pipeline", broken)

    answer = segment(config, {"flair": path}, tmp_path / "out")

    assert answer.outcome == "failed"
    assert "ZeroDivisionError at test_offline.py" in answer.summary
    assert "Doe" not in answer.summary
    assert not stale.exists()


@pytest.mark.timeout(400)
def test_a_dicom_study_gets_seg_report_and_derivatives(config: Config, head: Volume, tmp_path: Path) -> None:
    uid = derive_uid("offline")
    write_series(
        author_series(
            head.array, AFFINE, role="flair", study_uid=uid, frame_of_reference_uid=derive_uid("frame")
        ),
        tmp_path / "dicom",
    )

    (case,) = dicom_cases([tmp_path / "dicom"], lambda _text: None)
    answer = answer_case(OfflineTask(case, config, tmp_path / "out"))

    folder = tmp_path / "out" / answer.label.folder
    assert answer.name == uid
    assert answer.outcome == "lesions", answer.summary
    seg, sr = (pydicom.dcmread(folder / "dicom" / f"{kind}.dcm") for kind in ("seg", "sr"))
    assert (seg.Modality, sr.Modality) == ("SEG", "SR")
    assert seg.StudyInstanceUID == sr.StudyInstanceUID == uid
    told = json.loads(written(tmp_path / "out", answer, "label-L_mask.json").read_text())
    assert told["StudyInstanceUID"] == uid
    assert told["SpatialReference"].endswith("_desc-input_FLAIR.nii.gz")
    with Image.open(
        io.BytesIO((folder / "figures" / f"{answer.label.stem}_montage.png").read_bytes())
    ) as picture:
        assert picture.width == 960
    # The same study is the same case in the next run, and one that was changed is not.
    assert cases.find_finished(OfflineTask(case, config, tmp_path / "out"))
    fewer = OfflineTask(
        cases.OfflineCase(case.label, case.name, instances=case.instances[1:]), config, tmp_path / "out"
    )
    assert not cases.find_finished(fewer)


def test_a_refused_study_gets_its_report(config: Config, tmp_path: Path) -> None:
    study = phantom_study("hole", roles=("flair",))
    paths = study.write(tmp_path / "dicom")
    paths[len(paths) // 2].unlink()

    (case,) = dicom_cases([tmp_path / "dicom"], lambda _text: None)
    answer = answer_case(OfflineTask(case, config, tmp_path / "out"))

    assert answer.outcome == "refused"
    assert answer.summary.startswith("missing-slices")
    files = [
        path.relative_to(tmp_path / "out" / answer.label.folder).as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    ]
    assert files == ["dicom/sr.dcm"]


def test_single_files_are_labelled_by_their_names_or_their_content(tmp_path: Path) -> None:
    one, two = tmp_path / "sub-7_ses-b_T1w.nii.gz", tmp_path / "flair.nii.gz"
    one.write_bytes(b"1")
    two.write_bytes(b"2")

    assert nifti_case({"t1": one}).label.stem == "sub-7_ses-b"
    assert nifti_case({"t1": one, "flair": two}).label == nifti_case({"t1": one, "flair": two}).label
    two.write_bytes(b"3")
    assert nifti_case({"flair": two}).label != nifti_case({"flair": one}).label
