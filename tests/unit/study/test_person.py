"""Two people's images are told apart by their headers, and nothing of what those say is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicomnode.errors import StudyRefused
from dicomnode.study.person import check_one_person, find_contradictions

SOMEBODY = {
    "PatientID": "4711",
    "IssuerOfPatientID": "HERE",
    "PatientBirthDate": "19500101",
    "PatientSex": "F",
}


def write(path: Path, **elements: str | None) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "2.25.1"
    for keyword, value in {**SOMEBODY, **elements}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ({}, ()),
        ({"PatientID": "4712"}, ("PatientID",)),
        ({"PatientBirthDate": "19500102", "PatientSex": "M"}, ("PatientBirthDate", "PatientSex")),
        # An ID says who only together with its issuer; the first part of an ID is another one.
        ({"IssuerOfPatientID": "ELSEWHERE"}, ("IssuerOfPatientID",)),
        ({"PatientID": "4711\\08"}, ("PatientID",)),
        # What one of them does not say is no contradiction, and neither is the padding of one writer.
        ({"PatientID": "", "PatientBirthDate": None, "PatientSex": ""}, ()),
        ({"PatientID": " 4711 "}, ()),
        # A married patient has another name and is the same person.
        ({"PatientName": "Other^Name"}, ()),
    ],
)
def test_what_contradicts(tmp_path: Path, other: dict[str, str | None], differing: tuple[str, ...]) -> None:
    paths = [write(tmp_path / "t1", PatientName="Some^Name"), write(tmp_path / "flair", **other)]

    assert find_contradictions(paths) == find_contradictions(reversed(paths)) == differing


def test_two_that_contradict_each_other_are_found_behind_one_that_says_nothing(tmp_path: Path) -> None:
    silent = write(
        tmp_path / "silent", PatientID="", IssuerOfPatientID="", PatientBirthDate="", PatientSex=""
    )

    assert find_contradictions([silent, write(tmp_path / "a"), write(tmp_path / "b", PatientID="4712")]) == (
        "PatientID",
    )


def test_what_cannot_be_read_contradicts_nothing(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no DICOM")

    assert find_contradictions([write(tmp_path / "a"), tmp_path / "noise", tmp_path / "missing"]) == ()


def test_the_refusal_names_elements_and_no_patient(tmp_path: Path) -> None:
    with pytest.raises(StudyRefused) as caught:
        check_one_person(
            [write(tmp_path / "a"), write(tmp_path / "b", PatientID="4712", PatientBirthDate="19510101")],
            "T1 and FLAIR are",
        )

    assert caught.value.code == "patients-differ"
    assert (
        "T1 and FLAIR are of different patients by their headers, which differ in PatientID, PatientBirthDate;"
        in str(caught.value)
    )
    assert not any(value in str(caught.value) for value in ("4711", "4712", "1950", "1951"))
