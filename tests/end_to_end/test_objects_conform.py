"""Every kind of object, of every source that we have or can think of, before dciodvfy; whole answers before dcentvfy.

What the 2022 dciodvfy warns about for reasons that are not ours is listed in docs/conformance.md, from the table below.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicomnode.results.build import build_answer, build_refusal
from dicomnode.results.records import EncodedResult
from dicomnode.results.verify.gate import verify_answer, verify_refusal
from dicomnode.results.words.language import LANGUAGES
from dicomnode.settings.config import Language, ResultForm
from dicomnode.states import Outcome
from scripts.known_warnings import KNOWN_WARNINGS
from tests.end_to_end.test_result_tools import REAL, real_study
from tests.factories.results import CHANGES, Answered, answered_study, followed
from tests.unit.results.test_companions import NAMES

RequireTool = Callable[[str], str]

FORMS = (
    ResultForm(objects=("seg", "sr", "pictures", "pdf", "ko", "probability", "seg-t1", "summary")),
    ResultForm(
        objects=("seg", "sr", "pictures", "ko", "summary"),
        segmentation="pseudo-fractional",
        report="comprehensive",
        pictures="single-frame",
    ),
    ResultForm(objects=("sr",), segmentation="auto", report="enhanced"),
)


def validate(dciodvfy: str, results: Iterable[EncodedResult], folder: Path) -> None:
    """Refuse any error, and any warning that is not in the table."""
    for item in results:
        path = folder / item.filename
        path.write_bytes(item.data)
        answer = subprocess.run(
            [dciodvfy, "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
        )
        lines = (answer.stdout + answer.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == [], item.kind
        assert [
            line
            for line in lines
            if line.startswith("Warning") and not any(words in line for words in KNOWN_WARNINGS)
        ] == [], item.kind


def all_forms(study: Answered) -> Answered:
    return replace(study, context=replace(study.context, forms=FORMS))


def answer(study: Answered) -> tuple[EncodedResult, ...]:
    study = all_forms(study)
    results = build_answer(study.context, study.volume, study.result, ())
    verify_answer(results, study.context, study.volume, study.result)
    return results


def clear(*keywords: str) -> Callable[[Dataset], None]:
    def apply(dataset: Dataset) -> None:
        for keyword in keywords:
            if keyword in dataset:
                del dataset[keyword]

    return apply


def put(**values: object) -> Callable[[Dataset], None]:
    def apply(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return apply


def jitter(dataset: Dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 1e-7 * int(dataset.InstanceNumber), 0, 1, 0]


HEADERS: dict[str, Callable[[Dataset], None]] = {
    "no type 2 attributes": clear(
        *(
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
            "StudyID",
        ),
        *("ReferringPhysicianName", "SliceThickness", "InstitutionName", "SeriesNumber"),
    ),
    "sex U": put(PatientSex="U"),
    "sex M with a blank": put(PatientSex="M "),
    "jittering orientation": jitter,
    "lossy, without ratio and method": put(LossyImageCompression="01"),
    "lossy, with ratio and method": put(
        LossyImageCompression="01",
        LossyImageCompressionRatio="12.5",
        LossyImageCompressionMethod="ISO_10918_1",
    ),
    "identity removed, without method": put(PatientIdentityRemoved="YES"),
    "dates that are none": put(PatientBirthDate="1950.01", StudyTime="9:00"),
    **{
        f"name in {script}": put(SpecificCharacterSet=charset, PatientName=name)
        for script, (charset, name) in NAMES.items()
    },
}


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("name", HEADERS)
def test_every_object_is_valid_whatever_the_source_header_says(
    tmp_path: Path, require_tool: RequireTool, name: str
) -> None:
    study = answered_study(
        tmp_path / "in", roles=("flair",), flair={"shape": (16, 48, 41), "spacing_mm": (12.0, 4.0, 5.0)}
    )
    settings = pydicom.config.settings
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    for path in (tmp_path / "in").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        HEADERS[name](dataset)
        dataset.save_as(path)
    settings.reading_validation_mode, settings.writing_validation_mode = (
        pydicom.config.WARN,
        pydicom.config.RAISE,
    )

    validate(require_tool("dciodvfy"), answer(study), tmp_path)


@pytest.mark.tools
@pytest.mark.parametrize(
    "study",
    [
        {"flair": {"multiframe": True}},
        {
            "roles": ("t1",),
            "t1": {
                "plane": "sagittal",
                "shape": (30, 53, 47),
                "spacing_mm": (5.0, 4.0, 4.0),
                "reverse": True,
            },
        },
        {
            "roles": ("flair",),
            "flair": {"tilt_deg": 14, "shape": (20, 40, 56), "spacing_mm": (7.5, 3.5, 4.25)},
        },
        {"found": False},
    ],
    ids=["enhanced source", "odd sagittal", "oblique anisotropic", "no lesion"],
)
def test_every_object_is_valid_and_the_answer_is_one_study(
    tmp_path: Path, require_tool: RequireTool, study: dict[str, Any]
) -> None:
    answered = answered_study(tmp_path / "in", **study)
    results = answer(answered)
    validate(require_tool("dciodvfy"), results, tmp_path)

    # Destinations that want the same form get the same object: one UID, the same bytes.
    single = {item.SOPInstanceUID: item for item in results}
    assert all(single[item.SOPInstanceUID].data == item.data for item in results)
    files = [
        *sorted((tmp_path / "in").rglob("*.dcm")),
        *(tmp_path / item.filename for item in single.values()),
    ]
    entities = subprocess.run(
        [require_tool("dcentvfy"), *map(str, files)], capture_output=True, text=True, check=False
    )
    lines = (entities.stdout + entities.stderr).splitlines()
    assert [line for line in lines if line.startswith("Error")] == []


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("found", [True, False])
def test_every_object_is_valid_in_every_language(
    tmp_path: Path, require_tool: RequireTool, language: Language, found: bool
) -> None:
    study = answered_study(
        tmp_path / "in",
        roles=("flair",),
        found=found,
        flair={"shape": (16, 48, 41), "spacing_mm": (12.0, 4.0, 5.0)},
    )
    changes = tuple(change for change in CHANGES if change.label is None or found)
    study = followed(replace(study, context=replace(study.context, language=language)), changes)
    validate(require_tool("dciodvfy"), answer(study), tmp_path)

    context = all_forms(replace(study, context=replace(study.context, sources=()))).context
    refusal = build_refusal(context, "missing-slices", "The FLAIR has a gap.", (), Outcome.REFUSED)
    verify_refusal(refusal, context)
    validate(require_tool("dciodvfy"), refusal, tmp_path)


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", REAL)
def test_every_object_of_a_real_series_is_valid(
    tmp_path: Path, real_data: Path, require_tool: RequireTool, name: str
) -> None:
    folder, role = REAL[name]
    study = real_study(real_data / folder, role, tmp_path)

    validate(require_tool("dciodvfy"), answer(study), tmp_path)


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_refusal_of_any_real_series_is_valid(
    tmp_path: Path, real_data: Path, require_tool: RequireTool
) -> None:
    folders = sorted({path.parent for path in real_data.rglob("*") if path.is_file() and is_dicom(path)})
    assert len(folders) > 15
    for number, folder in enumerate(folders):
        template = next(path for path in sorted(folder.iterdir()) if is_dicom(path))
        study = answered_study(
            tmp_path / "in", roles=("flair",), flair={"shape": (10, 20, 20), "spacing_mm": (16.0, 10.0, 10.0)}
        )
        uid = str(pydicom.dcmread(template, stop_before_pixels=True).StudyInstanceUID)
        context = replace(study.context, StudyInstanceUID=uid, sources=(), template=template, forms=FORMS)
        results = build_refusal(
            context, "no-usable-series", "The study has no series that can be used.", (), Outcome.REFUSED
        )
        verify_refusal(results, context)
        (tmp_path / str(number)).mkdir()
        validate(require_tool("dciodvfy"), results, tmp_path / str(number))


def is_dicom(path: Path) -> bool:
    try:
        pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError):
        return False
    return True
