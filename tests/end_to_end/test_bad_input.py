"""Every bad input of the list, sent in one batch together with a good study: each is processed, or answered with its reason code.

One run is shared by all tests of this file: real associations, spool, ledger, networks and archive, in one process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from dicomnode.ledger.shown import plain
from dicomnode.simulator.author import Patient, derive_uid, write_series
from dicomnode.spool.part10 import encode_file_meta
from tests.factories.head import head_series, head_study, study_uid
from tests.factories.results import texts_of
from tests.factories.whole_node import WholeNode, whole_node

# The shared run falls to the first test; it takes a minute on one core.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MIDDLE = 16
REPETITION_TIME = b"\x18\x00\x80\x00DS\x04\x00"
TYPE_2 = (
    *(
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "PatientAge",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
    ),
    *(
        "ReferringPhysicianName",
        "SeriesNumber",
        "SeriesDate",
        "SeriesTime",
        "InstanceNumber",
        "PatientPosition",
        "Manufacturer",
    ),
    *(
        "PositionReferenceIndicator",
        "SliceThickness",
        "SpacingBetweenSlices",
        "AcquisitionNumber",
        "SpecificCharacterSet",
    ),
)


@dataclass(frozen=True)
class Bad:
    """How a study is made, and how it must be answered.

    `reason` is the code in the report of a study that is not processed; else `used` are the roles of the segmented series and
    `finding` the code of the remark that must go with the answer.
    """

    make: Callable[[str], list[Dataset]]
    reason: str = ""
    used: tuple[str, ...] = ("flair",)
    finding: str = ""
    spoil: Callable[[Sequence[Path]], None] = lambda _paths: None


def flair(name: str, **author: Any) -> list[Dataset]:
    return head_series("flair", name, **author)


def of_another_modality(name: str) -> list[Dataset]:
    series = flair(name, overrides={"Modality": "CT", "SOPClassUID": CTImageStorage})
    for instance in series:
        instance.file_meta.MediaStorageSOPClassUID = CTImageStorage
    return series


def without_a_slice(name: str) -> list[Dataset]:
    series = flair(name)
    del series[MIDDLE]
    return series


def with_a_whole_t1(name: str) -> list[Dataset]:
    return [*head_series("t1", name), *without_a_slice(name)]


def of_two_people(name: str) -> list[Dataset]:
    return [*head_series("t1", name, patient=Patient(PatientID="SIM-SOMEBODY-ELSE")), *flair(name)]


def twice(name: str, numbers: tuple[str, str]) -> list[Dataset]:
    """Return a series whose every position was acquired two times."""
    first = flair(name, overrides={"AcquisitionNumber": numbers[0]})
    second = copy.deepcopy(first)
    for instance in second:
        instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = derive_uid(
            instance.SOPInstanceUID, "again"
        )
        instance.AcquisitionNumber = numbers[1]
    return [*first, *second]


def in_two_frames_of_reference(name: str) -> list[Dataset]:
    series = flair(name)
    for instance in series[MIDDLE:]:
        instance.FrameOfReferenceUID = derive_uid(name, "the other frame of reference")
    return series


def with_jitter(name: str) -> list[Dataset]:
    series = flair(name)
    rng = np.random.default_rng(5)
    for instance in series:
        jittered = np.array(instance.ImageOrientationPatient, float) + rng.uniform(-3e-5, 3e-5, 6)
        instance.ImageOrientationPatient = [f"{value:.8f}" for value in jittered]
    return series


def with_short_pixels(name: str) -> list[Dataset]:
    series = flair(name)
    series[MIDDLE].PixelData = series[MIDDLE].PixelData[:1000]
    return series


def blank(name: str) -> list[Dataset]:
    series = flair(name)
    for instance in series:
        instance.PixelData = bytes(len(instance.PixelData))
    return series


def truncate(*chosen: int) -> Callable[[Sequence[Path]], None]:
    """Return what cuts files in the middle of their pixels; without numbers, all of them."""

    def spoil(paths: Sequence[Path]) -> None:
        for path in [paths[index] for index in chosen] or paths:
            path.write_bytes(path.read_bytes()[:-2500])

    return spoil


def name_unknown_character_set(paths: Sequence[Path]) -> None:
    for path in paths:
        content = path.read_bytes()
        assert content.count(b"ISO_IR 100") == 1
        path.write_bytes(content.replace(b"ISO_IR 100", b"ISO_IR 999"))


def put_words_for_numbers(paths: Sequence[Path]) -> None:
    for path in paths:
        content = path.read_bytes()
        assert content.count(REPETITION_TIME + b"9000") == 1
        path.write_bytes(content.replace(REPETITION_TIME + b"9000", REPETITION_TIME + b"long"))


CASES = {
    "T1 only": Bad(lambda name: head_series("t1", name), used=("t1",)),
    "FLAIR only": Bad(flair),
    "a slice truncated": Bad(flair, reason="missing-slices", spoil=truncate(MIDDLE)),
    "the last slice truncated": Bad(flair, finding="instances-unreadable", spoil=truncate(-1)),
    "every slice truncated": Bad(flair, reason="truncated", spoil=truncate()),
    "wrong modality": Bad(of_another_modality, reason="wrong-modality"),
    "no position": Bad(
        lambda name: flair(name, overrides={"ImagePositionPatient": None}), reason="geometry-missing"
    ),
    "no orientation": Bad(
        lambda name: flair(name, overrides={"ImageOrientationPatient": None}), reason="geometry-missing"
    ),
    "no pixel spacing": Bad(
        lambda name: flair(name, overrides={"PixelSpacing": None}), reason="geometry-missing"
    ),
    "no frame of reference": Bad(
        lambda name: flair(name, overrides={"FrameOfReferenceUID": None}), reason="frame-of-reference-missing"
    ),
    "one slice missing": Bad(without_a_slice, reason="missing-slices"),
    "one slice missing beside a T1": Bad(with_a_whole_t1, used=("t1",), finding="missing-slices"),
    "T1 and FLAIR of two people": Bad(of_two_people, reason="patients-differ"),
    "two acquisitions, numbered": Bad(lambda name: twice(name, ("1", "2")), finding="repeated-acquisition"),
    "two acquisitions, not numbered": Bad(lambda name: twice(name, ("1", "1")), reason="duplicate-positions"),
    "two frames of reference": Bad(in_two_frames_of_reference, reason="several-frames-of-reference"),
    "unknown character set": Bad(
        lambda name: flair(name, patient=Patient(PatientName="Müller^Jürgen")),
        spoil=name_unknown_character_set,
    ),
    "no type 2 attributes": Bad(lambda name: flair(name, overrides=dict.fromkeys(TYPE_2))),
    "PatientSex U": Bad(lambda name: flair(name, patient=Patient(PatientSex="U"))),
    "orientation jitter": Bad(with_jitter, finding="orientation-jitter"),
    "short pixels": Bad(with_short_pixels, reason="pixel-data-unreadable"),
    "no image in the pixels": Bad(blank, reason="voxels-constant"),
    "words for numbers": Bad(flair, spoil=put_words_for_numbers),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node that was sent everything in one go, the good study in the middle, and has worked until nothing was left."""
    folder = tmp_path_factory.mktemp("bad input")
    batch: list[Path] = []
    for number, (name, case) in enumerate(CASES.items()):
        paths = write_series(case.make(name), folder / str(number))
        case.spoil(paths)
        batch += paths
        if number == len(CASES) // 2:
            batch += write_series(head_study("good"), folder / "good")
    batch.insert(len(batch) // 3, write_noise(folder / "noise.dcm"))
    with whole_node(folder) as running:
        assert set(running.push(batch)) == {0x0000}
        running.work()
        yield running


def write_noise(path: Path) -> Path:
    """Write a file that calls itself MR and holds bytes that are no data set."""
    uid = derive_uid("noise")
    meta = encode_file_meta(
        SOPClassUID=MRImageStorage,
        SOPInstanceUID=uid,
        TransferSyntaxUID=ExplicitVRLittleEndian,
        calling_ae="X",
    )
    path.write_bytes(meta + np.random.default_rng(3).bytes(5000))
    return path


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_processed_or_answered_with_its_reason(node: WholeNode, name: str) -> None:
    case = CASES[name]
    (job,) = node.history(study_uid(name))["jobs"]
    arrived = node.arrived(study_uid(name))
    (report,) = arrived["SR"]

    assert job["state"] == "done"
    if case.reason:
        assert (job["outcome"], job["detail"]["code"]) == ("refused", case.reason)
        assert set(arrived) == {"SR"}
        assert f"Reason code: {case.reason}" in texts_of(report)
    else:
        assert job["outcome"] in {"lesions", "negative"}
        assert set(arrived) == ({"SR", "SEG"} if job["outcome"] == "lesions" else {"SR"})
        assert tuple(job["detail"]["used"]) == case.used
        assert case.finding in {"", *(finding["code"] for finding in job["detail"]["findings"])}


def test_the_good_study_among_them_is_answered(node: WholeNode) -> None:
    (job,) = node.history(study_uid("good"))["jobs"]
    arrived = node.arrived(study_uid("good"))
    (seg,), (report,) = arrived["SEG"], arrived["SR"]

    assert (job["state"], job["outcome"]) == ("done", "lesions")
    assert job["detail"]["used"] == ["flair", "t1"]
    assert int(hd.seg.Segmentation.from_dataset(seg).pixel_array.sum()) > 100
    assert str(seg.SOPInstanceUID) in str(report)


def test_bytes_that_are_no_dicom_are_kept_and_shown(node: WholeNode) -> None:
    # Of no study, so under its own name and under no other patient's study.
    shown = {item["SOPInstanceUID"]: item["reason"] for item in plain(node.ledger.history.without_study())}
    assert derive_uid("noise") not in str(node.history(study_uid("good")))

    assert shown[derive_uid("noise")].startswith("not-dicom")


def test_nothing_is_left_to_do_and_every_study_has_one_answer(node: WholeNode) -> None:
    health = plain(node.ledger.history.health())

    assert health["studies"] == len(CASES) + 1
    assert {state: count for state, count in health["jobs"].items() if count} == {"done": len(CASES) + 1}
    assert {state: count for state, count in health["deliveries"].items() if count} == {
        "sent": len(node.archive.files)
    }
    assert len(node.archive.received) == len(set(node.archive.received))


def test_patient_attributes_that_results_cannot_carry_are_repaired(node: WholeNode) -> None:
    sex = node.arrived(study_uid("PatientSex U"))["SR"][0]
    unknown = node.arrived(study_uid("unknown character set"))["SR"][0]
    absent = node.arrived(study_uid("no type 2 attributes"))["SR"][0]

    assert sex.PatientSex == ""
    assert str(unknown.PatientName) == "Müller^Jürgen"
    assert (absent.PatientID, absent.PatientName, absent.StudyDate) == ("", "", "")
