"""`dicomnode bids`: images where they were, sidecars in BIDS units, and nothing of the patient anywhere in the dataset."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from dicomnode.commands.cli import cli
from dicomnode.simulator.author import Patient, write_series
from tests.factories.dicom import phantom_series

JANE = Patient("Doe^Jane^Mary", "HOSP-4711", "19610203", "F", "064Y")
JOHN = Patient("Roe^Richard", "HOSP-0815", "19300101", "M", "096Y")
GRID = {"shape": (24, 40, 44), "spacing_mm": (5.0, 5.0, 4.5)}


def write_study(
    folder: Path, uid: str, patient: Patient, date: str, roles: tuple[str, ...] = ("t1", "flair")
) -> None:
    words = {
        "StudyDate": date,
        "SeriesDate": date,
        "AcquisitionDate": date,
        "ContentDate": date,
        "StudyDescription": "Brain of Jane Doe",
        "SeriesDescription": "Doe, Jane T2 FLAIR",
        "ReferringPhysicianName": "House^Gregory",
        "InstitutionName": "St. Elsewhere",
        "StationName": "MRHOSP1",
        "DeviceSerialNumber": "SN-998877",
    }
    for number, role in enumerate(roles, start=1):
        series = phantom_series(
            role,
            study_uid=uid,
            frame_of_reference_uid=f"{uid}.9",
            patient=patient,
            series_number=number,
            overrides=words,
            **GRID,
        )
        write_series(series.instances, folder / role)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    write_study(folder / "later", "1.2.840.1", JANE, "20250630")
    write_study(folder / "first", "1.2.840.2", JANE, "20240630")
    write_study(folder / "other", "1.2.840.3", JOHN, "20240101", roles=("flair",))
    return folder


@pytest.fixture
def convert(tmp_path: Path, studies: Path) -> Callable[..., list[dict[str, str]]]:
    def run(*options: str, exit_code: int = 0) -> list[dict[str, str]]:
        answer = CliRunner().invoke(
            cli, ["bids", str(studies), "-o", str(tmp_path / "bids"), "--json", *options]
        )
        assert answer.exit_code == exit_code, answer.output
        told: list[dict[str, str]] = json.loads(answer.stdout)
        return told

    return run


def everything(folder: Path) -> bytes:
    """Every byte of a dataset, names included, compressed files opened."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(
        str(path).encode() + (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes())
        for path in files
    )


def test_nothing_of_the_patient_is_in_the_dataset(
    tmp_path: Path, convert: Callable[..., list[dict[str, str]]]
) -> None:
    convert()

    content = everything(tmp_path / "bids")
    secrets = [
        "Doe",
        "Jane",
        "Roe",
        "Richard",
        "4711",
        "0815",
        "19610203",
        "19300101",
        "20240630",
        "20250630",
        "20240101",
        "House",
    ]
    secrets += ["Elsewhere", "MRHOSP1", "998877", "1.2.840", "2024-06", "SIM"]
    assert [word for word in secrets if word.encode() in content] == []
    link = tmp_path / "bids-link.json"
    assert b"HOSP-4711" in link.read_bytes()
    assert link.stat().st_mode & 0o777 == 0o600


def test_images_lie_where_the_phantom_lies(
    tmp_path: Path, convert: Callable[..., list[dict[str, str]]]
) -> None:
    rows = {row["study"]: row for row in convert()}
    label = rows["1.2.840.3"]["subject"]

    image = nib.load(tmp_path / "bids" / Path(*label.split("_")) / "anat" / f"{label}_FLAIR.nii.gz")

    expected = phantom_series("flair", study_uid="1.2", frame_of_reference_uid="1.2.9", **GRID)
    marked = np.argwhere(expected.array == expected.array.max())
    voxels = np.asarray(image.dataobj)
    assert voxels.dtype == np.int16
    lps = nib.affines.apply_affine(expected.affine, marked)
    index = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), lps * (-1, -1, 1))).astype(int)
    assert (voxels[tuple(index.T)] == expected.array.max()).all()
    assert sorted(voxels.shape) == sorted(expected.array.shape)


def test_sidecars_speak_bids(tmp_path: Path, convert: Callable[..., list[dict[str, str]]]) -> None:
    rows = {row["study"]: row["subject"] for row in convert()}
    label = rows["1.2.840.2"]
    anat = tmp_path / "bids" / Path(*label.split("_")) / "anat"

    flair = json.loads((anat / f"{label}_FLAIR.json").read_text())

    assert (flair["EchoTime"], flair["RepetitionTime"], flair["InversionTime"]) == (0.12, 9.0, 2.5)
    assert (flair["FlipAngle"], flair["MagneticFieldStrength"], flair["MRAcquisitionType"]) == (150, 3, "2D")
    assert json.loads((anat / f"{label}_T1w.json").read_text())["MRAcquisitionType"] == "3D"
    assert [rows["1.2.840.2"][-6:], rows["1.2.840.1"][-6:]] == ["ses-01", "ses-02"]
    people = (tmp_path / "bids" / "participants.tsv").read_text().splitlines()
    jane, john = (rows[uid].split("_")[0] for uid in ("1.2.840.2", "1.2.840.3"))
    assert people[0] == "participant_id\tsex\tage"
    assert set(people[1:]) == {f"{jane}\tF\t64", f"{john}\tM\t89+"}


def test_days_are_written_only_when_asked_for(
    tmp_path: Path, convert: Callable[..., list[dict[str, str]]]
) -> None:
    rows = {row["study"]: row["subject"] for row in convert("--dates")}
    jane = rows["1.2.840.2"].split("_")[0]

    assert (tmp_path / "bids" / jane / f"{jane}_sessions.tsv").read_text().splitlines() == [
        "session_id\tacq_time",
        "ses-01\t2024-06-30T09:00:00",
        "ses-02\t2025-06-30T09:00:00",
    ]


def test_one_bad_study_does_not_stop_the_others_and_a_later_run_goes_on(
    tmp_path: Path, studies: Path, convert: Callable[..., list[dict[str, str]]]
) -> None:
    hole = sorted((studies / "other" / "flair").iterdir())[12]
    content = hole.read_bytes()
    hole.unlink()

    try:
        first = {row["study"]: row for row in convert(exit_code=1)}
    finally:
        hole.write_bytes(content)
    second = {row["study"]: row for row in convert()}
    third = {row["study"]: row["outcome"] for row in convert("--overwrite")}

    assert first["1.2.840.3"]["outcome"] == "refused"
    assert "missing-slices" in first["1.2.840.3"]["images or reason"]
    assert [first[uid]["outcome"] for uid in ("1.2.840.1", "1.2.840.2")] == ["converted"] * 2
    assert {uid: row["outcome"] for uid, row in second.items()} == {
        "1.2.840.1": "skipped",
        "1.2.840.2": "skipped",
        "1.2.840.3": "converted",
    }
    assert {uid: row["subject"] for uid, row in first.items()} == {
        uid: row["subject"] for uid, row in second.items()
    }
    assert set(third.values()) == {"converted"}
    assert not (tmp_path / "bids" / ".partial").exists()


def test_a_link_inside_the_dataset_is_refused(tmp_path: Path, studies: Path) -> None:
    answer = CliRunner().invoke(
        cli,
        ["bids", str(studies), "-o", str(tmp_path / "bids"), "--link", str(tmp_path / "bids" / "link.json")],
    )

    assert "kept apart" in str(answer.exception)
    assert not (tmp_path / "bids").exists()
