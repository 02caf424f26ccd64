"""Two studies of one patient: the second report says what became of the lesions of the first, and their tracking UIDs go on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomnode import answer
from dicomnode.answer import SolvedStudy, StudyTask, solve_study
from dicomnode.errors import StudyRefused
from dicomnode.offline.cases import find_prior, find_studies
from dicomnode.records import EarlierStudy, IndexedInstance
from dicomnode.results.verify.content import walk_content
from dicomnode.results.verify.gate import read_back
from dicomnode.settings.config import Config, parse_config
from dicomnode.simulator.author import Patient
from dicomnode.study.earlier import find_earlier
from pipeline.records import Volume
from pipeline.run import Case, Journal, run_pipeline
from tests.factories.dicom import LESIONS, Blob, phantom_study, voxel_centres
from tests.factories.onnx import brain_manifest, known_lesion_bundle, threshold_graph, write_bundle

# Small enough that the head stays darker than the brain in the eyes of the test's brain extractor.
GROWN = Blob(LESIONS[0].center_mm, (13.5, 15, 11.2))
NEW = Blob((20, -50, 20), (6, 6, 6))
GRIDS = (
    {"shape": (60, 72, 60), "spacing_mm": (3.0, 3.0, 3.0)},
    {"plane": "coronal", "shape": (66, 68, 58), "spacing_mm": (3.0, 3.0, 3.0)},
)


def know(lesions: Sequence[Blob]) -> Callable[[Case, Journal], Volume]:
    """Return a network that knows the truth."""

    def segment(case: Case, journal: Journal) -> Volume:
        centres_mm = voxel_centres(case.reference.affine, case.reference.shape)
        return case.reference.fill(
            np.any([blob.contains(centres_mm) for blob in lesions], axis=0).astype(np.float32)
        )

    return segment


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    models = tmp_path_factory.mktemp("models")
    known_lesion_bundle(models)
    write_bundle(models, threshold_graph([1.0], 0.68, [80, 80, 64]), brain_manifest())
    settings = {
        "models": str(models),
        "lesion_model": "known-lesion",
        "brain_model": "known-brain",
        "require_head": False,
    }
    return parse_config({"storage": {"root": str(models)}, "pipeline": settings})


def receive(
    folder: Path,
    seed: str,
    grid: dict[str, object],
    lesions: Sequence[Blob],
    date: str,
    PatientID: str = "SIM-FOLLOWED",
) -> tuple[str, tuple[IndexedInstance, ...]]:
    """Write a FLAIR of the one patient and index it."""
    phantom = phantom_study(
        seed, roles=("flair",), flair=grid, lesions=lesions, patient=Patient(PatientID=PatientID)
    )
    for instance in phantom.instances:
        instance.StudyDate = date
    phantom.write(folder)
    ((uid, instances),) = find_studies([folder], lambda _: None).items()
    return uid, instances


def solve(task: StudyTask, lesions: Sequence[Blob], monkeypatch: pytest.MonkeyPatch) -> SolvedStudy:
    monkeypatch.setattr(answer, "run_pipeline", functools.partial(run_pipeline, segmenter=know(lesions)))
    return solve_study(task)


def tracking(solved: SolvedStudy) -> list[str]:
    (seg,) = [read_back(item) for item in solved.encoded if item.kind == "seg"]
    return [str(item.TrackingUID) for item in seg.SegmentSequence]


def words(solved: SolvedStudy) -> str:
    (report,) = [read_back(item) for item in solved.encoded if item.kind == "sr"]
    return "\n".join(item.TextValue for item in walk_content(report) if item.ValueType == "TEXT")


@pytest.mark.slow
def test_the_second_report_tells_what_became_of_each_lesion(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_uid, first_instances = receive(tmp_path / "first", "a", GRIDS[0], LESIONS, "20260105")
    second_uid, second_instances = receive(tmp_path / "second", "b", GRIDS[1], (GROWN, NEW), "20260704")
    first = solve(StudyTask(first_uid, 1, first_instances, config), LESIONS, monkeypatch)
    seg = tmp_path / "seg.dcm"
    seg.write_bytes(next(item.data for item in first.encoded if item.kind == "seg"))
    # The same by `segment --prior`: a folder with the images and the SEG.
    (tmp_path / "first" / "seg.dcm").write_bytes(seg.read_bytes())
    assert find_prior(tmp_path / "first", lambda _: None) == EarlierStudy(
        first_uid, first_instances, tmp_path / "first" / "seg.dcm"
    )
    with pytest.raises(StudyRefused, match="no segmentation of this node"):
        find_prior(tmp_path / "second", lambda _: None)
    task = StudyTask(
        second_uid, 1, second_instances, config, earlier=EarlierStudy(first_uid, first_instances, seg)
    )

    second = solve(task, (GROWN, NEW), monkeypatch)

    said = words(second)
    assert "New since 2026-01-05: lesion 2. Larger: lesion 1. No longer seen: 1." in said
    assert "larger, before" in said
    assert "Earlier lesion 2 (" in said
    before, after = tracking(first), tracking(second)
    assert after[0] == before[0]
    assert after[1] not in before
    # Without the earlier study the answer is another object, and says nothing of changes.
    alone = solve(replace(task, earlier=None), (GROWN, NEW), monkeypatch)
    assert "earlier" not in words(alone)
    assert {item.SOPInstanceUID for item in alone.encoded}.isdisjoint(
        item.SOPInstanceUID for item in second.encoded
    )
    # An earlier study that cannot be used, or is another patient's, leaves today's answer standing.
    strange_uid, strange = receive(
        tmp_path / "strange", "a", GRIDS[0], LESIONS, "20260105", PatientID="SIM-SOMEBODY-ELSE"
    )
    other = solve(replace(task, earlier=EarlierStudy(strange_uid, strange, seg)), (GROWN, NEW), monkeypatch)
    assert "the two studies are of different patients by their headers, which differ in PatientID;" in words(
        other
    )
    assert "larger, before" not in words(other)
    seg.write_bytes(b"no DICOM")
    told = solve(task, (GROWN, NEW), monkeypatch)
    assert "were not compared with those of the earlier study" in words(told)
    assert len(told.result.lesions) == 2


class _Made:
    """A ledger that knows segmentations and instances only."""

    def __init__(self, made: list[tuple[str, str]]) -> None:
        self.made = made
        self.history = self.instances = self

    def segmentations(self, besides: str, limit: int) -> list[tuple[str, str]]:
        return [(uid, path) for uid, path in self.made if uid != besides][:limit]

    def of_study(self, StudyInstanceUID: str) -> list[IndexedInstance]:
        return []


def write_header(path: Path, **elements: str) -> None:
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.SegmentationStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "2.25.1"
    dataset.save_as(path, enforce_file_format=True)


def test_the_earlier_study_is_the_newest_of_the_same_patient_before_today(tmp_path: Path) -> None:
    patient = {"PatientID": "P1", "PatientBirthDate": "19500101"}
    write_header(tmp_path / "today", **patient, StudyDate="20260704")
    write_header(tmp_path / "old", **patient, StudyDate="20240101")
    write_header(tmp_path / "newer", **patient, StudyDate="20260101")
    write_header(tmp_path / "later", **patient, StudyDate="20270101")
    write_header(tmp_path / "other-birth", PatientID="P1", PatientBirthDate="19600101", StudyDate="20260201")
    write_header(tmp_path / "other-id", PatientID="P2", PatientBirthDate="19500101", StudyDate="20260201")
    write_header(tmp_path / "nobody", PatientID="", PatientBirthDate="19500101", StudyDate="20260201")
    made = [
        (name, name) for name in ("later", "other-birth", "old", "other-id", "newer", "nobody", "missing")
    ]
    today = (IndexedInstance("today", 0.0, None),)  # type: ignore[arg-type]

    found = find_earlier(_Made(made), tmp_path, "today", today)  # type: ignore[arg-type]

    assert found is not None
    assert (found.StudyInstanceUID, found.segmentation) == ("newer", tmp_path / "newer")
    nobody = (IndexedInstance("nobody", 0.0, None),)  # type: ignore[arg-type]
    assert find_earlier(_Made(made), tmp_path, "x", nobody) is None  # type: ignore[arg-type]
    assert find_earlier(_Made(made), tmp_path, "x", ()) is None  # type: ignore[arg-type]
