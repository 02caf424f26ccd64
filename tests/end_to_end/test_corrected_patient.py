"""The patient of a study is corrected and its images are sent again under the same UIDs: before the answer, after it, by half, and taken back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.commands.story import status_rows, story
from tests.end_to_end.test_late_instances import predecessors
from tests.factories.dicom import PhantomSeries, phantom_series
from tests.factories.whole_node import WholeNode, whole_node

UID = "2.25.4711"
WRONG = {
    "PatientID": "OLD-1",
    "PatientName": "OLD^NAME",
    "PatientBirthDate": "19500101",
    "AccessionNumber": "A1",
}
RIGHT = {
    "PatientID": "NEW-2",
    "PatientName": "NEW^NAME",
    "PatientBirthDate": "19600202",
    "AccessionNumber": "A2",
}


@pytest.fixture(scope="module")
def series() -> PhantomSeries:
    # Too few slices to be segmented: the answer is a report, and takes a second.
    return phantom_series("flair", shape=(4, 16, 12), study_uid=UID, frame_of_reference_uid="2.25.9")


def write(series: PhantomSeries, folder: Path, **elements: str) -> list[Path]:
    folder.mkdir()
    paths = []
    for number, instance in enumerate(series.instances):
        changed = copy.deepcopy(instance)
        for keyword, value in elements.items():
            setattr(changed, keyword, value)
        paths.append(folder / f"{number}.dcm")
        changed.save_as(paths[-1], enforce_file_format=True)
    return paths


def reports(node: WholeNode) -> list[Dataset]:
    """Return the reports that the archive has, in the order of their revisions."""
    made = [
        file["SOPInstanceUID"]
        for job in node.history(UID)["jobs"]
        for file in job["results"]
        if file["kind"] == "sr"
    ]
    return sorted(node.arrived(UID).get("SR", []), key=lambda report: made.index(str(report.SOPInstanceUID)))


def identity(report: Dataset) -> dict[str, str]:
    return {keyword: str(report.get(keyword, "")) for keyword in RIGHT}


def test_a_correction_before_the_answer_is_answered_under_the_corrected_patient(
    tmp_path: Path, series: PhantomSeries
) -> None:
    with whole_node(tmp_path) as node:
        assert set(
            node.push(write(series, tmp_path / "old", **WRONG))
            + node.push(write(series, tmp_path / "new", **RIGHT))
        ) == {0x0000}
        node.work()
        (report,) = reports(node)
    assert identity(report) == RIGHT


@pytest.mark.parametrize(
    "keyword", ["PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "AccessionNumber"]
)
def test_every_correction_after_the_answer_is_answered_anew(
    tmp_path: Path, series: PhantomSeries, keyword: str
) -> None:
    corrected = {**WRONG, keyword: "19700303"}
    with whole_node(tmp_path) as node:
        node.push(write(series, tmp_path / "old", **WRONG))
        node.work()
        node.push(write(series, tmp_path / "new", **corrected))
        node.work()
        first, second = reports(node)
        jobs, lines = node.history(UID)["jobs"], "\n".join(story(node.ledger.history.of_study(UID)))  # type: ignore[arg-type]
    assert [(job["revision"], job["state"]) for job in jobs] == [(1, "superseded"), (2, "done")]
    assert identity(first) == WRONG
    assert str(second.get(keyword)) == "19700303"
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert predecessors(second) == [first.SOPInstanceUID]
    assert "corrected" in lines


def test_half_a_correction_is_refused_by_name_and_the_other_half_mends_it(
    tmp_path: Path, series: PhantomSeries
) -> None:
    with whole_node(tmp_path) as node:
        corrected = write(series, tmp_path / "new", **RIGHT)
        node.push(write(series, tmp_path / "old", **WRONG))
        node.push(corrected[:2])
        node.work()
        (row,) = status_rows(node.ledger)
        job = node.history(UID)["jobs"][-1]
        (refusal,) = reports(node)
        sentences = " ".join(
            str(element.value) for element in refusal.iterall() if element.keyword == "TextValue"
        )

        node.push(corrected[2:])
        node.work()
        *_, mended = reports(node)
    assert (job["outcome"], job["detail"]["code"]) == ("refused", "patients-differ")
    assert "of different patients" in row[5]
    assert "PatientID, PatientBirthDate" in row[5]
    assert "of different patients" in sentences
    assert not any(value in row[5] for value in (*WRONG.values(), *RIGHT.values()))
    # One patient whole, never some elements of one and some of the other.
    assert identity(refusal) in (WRONG, RIGHT)
    assert identity(mended) == RIGHT


def test_a_correction_that_is_taken_back_is_answered_under_the_first_patient(
    tmp_path: Path, series: PhantomSeries
) -> None:
    with whole_node(tmp_path) as node:
        old = write(series, tmp_path / "old", **WRONG)
        node.push(old)
        node.work()
        node.push(write(series, tmp_path / "new", **RIGHT))
        node.work()
        node.push(old)
        node.work()
        states = [job["state"] for job in node.history(UID)["jobs"]]
        last = node.history(UID)["jobs"][-1]["results"]
        newest = [
            report
            for report in reports(node)
            if str(report.SOPInstanceUID) in {file["SOPInstanceUID"] for file in last}
        ]
        node.push(old)
        node.work()
        settled = [job["state"] for job in node.history(UID)["jobs"]]
    assert states == settled == ["superseded", "superseded", "done"]
    assert identity(newest[0]) == WRONG
