"""The search by patient: complete over all studies, by what their files say, and gone with the process."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileMetaDataset

from dicomnode.states import Outcome
from dicomnode.web import patient_index
from dicomnode.web.patient_index import PatientIndex
from tests.factories.ledger import EXPLICIT_LITTLE, MR, received
from tests.factories.pages import Pages


def store(
    pages: Pages, number: int, patient: str, accession: str, received_at: float, study: str = ""
) -> str:
    """Have an image of a study of its own arrive; return the Study Instance UID."""
    instance = received(number, at=received_at)
    path: Path = pages.site.layout.root / instance.path
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = MR, "1.2"
    dataset.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    dataset.PatientID, dataset.AccessionNumber = patient, accession
    dataset.save_as(path, enforce_file_format=True)
    pages.story.ledger.instances.add(instance)
    study = study or f"2.25.{number}"
    pages.story.index(received_at + 1.0, study=study)
    return study


def uids_of(pages: Pages, patient: str, accession: str = "") -> list[str]:
    searched = pages.site.patients.search(patient, accession)
    assert searched.matches == len(searched.lines)
    return [line.StudyInstanceUID for line in searched.lines]


def test_all_studies_are_searched_however_many(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_index, "_BATCH", 2)
    uids = [store(pages, number, f"P{number % 3}", f"A{number}", 100.0 + number) for number in range(1, 8)]

    assert uids_of(pages, "p1") == [uids[6], uids[3], uids[0]], "the newest first, upper and lower case alike"
    assert uids_of(pages, "P1", "a4") == [uids[3]]
    assert uids_of(pages, "", "A7") == [uids[6]]
    assert uids_of(pages, "P") == []
    assert pages.site.patients.search("P1", "").is_complete
    late = store(pages, 20, "P1", "A20", 900.0)
    assert uids_of(pages, "P1")[0] == late


def test_a_search_reads_some_headers_and_says_that_there_are_more(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient_index, "_BATCH", 2)
    monkeypatch.setattr(patient_index, "_READ_IN_SEARCH", 2)
    for number in range(1, 10):
        store(pages, number, "P", "", 100.0 + number)
    pages.log_in()

    def search() -> str:
        form = {"patient_id": "P", "form_token": pages.form_token("/")}
        return str(pages.client.post("/search", data=form).text)

    assert "4 of 4 studies match" in (text := search())
    assert "still being read" in text
    for _ in range(3):
        text = search()
    assert "9 of 9 studies match" in text
    assert "still being read" not in text


def test_an_identity_that_was_corrected_counts_as_it_is_now(pages: Pages) -> None:
    study = store(pages, 1, "WRONG", "", 100.0)
    assert uids_of(pages, "WRONG") == [study]

    store(pages, 2, "RIGHT", "", 200.0, study)

    assert (uids_of(pages, "RIGHT"), uids_of(pages, "WRONG")) == ([study], [])


def test_a_study_that_was_removed_is_found_no_more_and_its_numbers_are_forgotten(pages: Pages) -> None:
    study = store(pages, 1, "P", "", 100.0)
    assert uids_of(pages, "P") == [study]
    ledger = pages.story.ledger
    ledger.jobs.mark_ready(ledger.jobs.waiting()[0].id, "complete", {}, 110.0)
    job = ledger.jobs.claim("work", 111.0, 60.0)
    assert job is not None
    pages.story.conclude(job, Outcome.NEGATIVE, "none", 112.0)
    ledger.jobs.close_delivered(113.0)
    assert ledger.retention.expire_study(study, 500.0, lambda _paths: None)

    assert uids_of(pages, "P") == []
    pages.site.patients._forget_removed()
    assert pages.site.patients.search("P", "").looked_at == 0


def test_the_thread_reads_all_and_stops(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_index, "_BATCH", 2)
    monkeypatch.setattr(patient_index, "_READ_IN_SEARCH", 0)
    uids = [store(pages, number, "P", "", 100.0 + number) for number in range(1, 6)]
    index = PatientIndex(pages.story.ledger, pages.site.layout.root)
    index.start()
    for _ in range(1000):
        if index.search("P", "").is_complete:
            break
        index._stop.wait(0.01)
    index.close()

    assert [line.StudyInstanceUID for line in index.search("P", "").lines] == uids[::-1]
