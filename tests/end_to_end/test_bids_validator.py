"""The official validator on what we write: a raw dataset of two subjects, and the derivatives of both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomnode.offline.batch import answer_cases, open_output, write_tables
from dicomnode.offline.bids.derivatives import write_json
from dicomnode.offline.bids.identity import Registry, register
from dicomnode.offline.bids.raw import convert_studies, identify_studies, write_dataset
from dicomnode.offline.cases import OfflineCase, OfflineTask, bids_cases, dicom_cases, find_studies
from dicomnode.settings.config import Config, parse_config
from dicomnode.simulator.author import Patient, author_series, derive_uid, write_series
from tests.factories.onnx import known_brain_bundle, known_lesion_bundle
from tests.factories.volumes import AXIAL, draw_head, grid_affine

pytestmark = [pytest.mark.tools, pytest.mark.timeout(900)]

SHAPE, SPACING = (44, 84, 70), (3.4, 2.2, 2.2)


def quiet(_: object = None) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    models = tmp_path_factory.mktemp("models")
    known_lesion_bundle(models)
    known_brain_bundle(models)
    pipeline = {
        "models": str(models),
        "lesion_model": "known-lesion",
        "brain_model": "known-brain",
        "bias_correction": False,
        "require_head": False,
    }
    return parse_config({"storage": {"root": str(models)}, "pipeline": pipeline})


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    affine = grid_affine(SHAPE, SPACING, directions=AXIAL)
    for number, roles in ((1, ("flair", "t1")), (2, ("flair",))):
        uid = derive_uid("validator", number)
        for place, role in enumerate(roles, start=1):
            head = draw_head(SHAPE, affine, contrast=role)
            patient = Patient(PatientID=f"P{number}", PatientSex="F", PatientAge="095Y")
            series = author_series(
                head.array,
                affine,
                role=role,  # type: ignore[arg-type]
                study_uid=uid,
                frame_of_reference_uid=derive_uid(uid, "frame"),
                patient=patient,
                series_number=place,
            )
            write_series(series, folder / str(number) / role)
    return folder


@pytest.fixture(scope="module")
def raw(config: Config, dicom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bids") / "raw"
    studies = find_studies([dicom], quiet)
    registry = register(Registry(bytes(32), {}), identify_studies(studies))
    answers = convert_studies(config, studies, registry, output, False, quiet, quiet)
    write_dataset(output, studies, registry, dates=True)
    (output / ".partial").rmdir()
    assert [answer.outcome for answer in answers] == ["converted"] * 2
    return output


def segment(config: Config, cases: tuple[OfflineCase, ...], output: Path, raw: Path | None) -> Path:
    open_output(config, output, raw)
    # One after the other, in this process: the validator does not care who wrote the files.
    answers = [
        answer
        for case in cases
        for answer in answer_cases([OfflineTask(case, config, output)], 1, False, quiet, quiet)
    ]
    write_tables(output, answers)
    assert [answer.outcome for answer in answers] == ["lesions"] * len(cases)
    return output


def errors_of(validator: str, dataset: Path) -> list[str]:
    answer = subprocess.run(
        [validator, str(dataset), "--format", "json"], capture_output=True, text=True, check=False
    )
    told: dict[str, Any] = json.loads(answer.stdout)
    assert told["summary"]["totalFiles"] > 5
    issues = [issue for issue in told["issues"]["issues"] if issue["severity"] == "error"]
    assert bool(issues) == bool(answer.returncode)
    return [f"{issue['code']} {issue.get('subCode', '')} {issue.get('location', '')}" for issue in issues]


def test_the_raw_dataset_is_valid(raw: Path, require_tool: Callable[[str], str]) -> None:
    assert errors_of(require_tool("bids-validator-deno"), raw) == []


def test_derivatives_of_a_bids_dataset_are_valid(
    config: Config, raw: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    output = segment(config, bids_cases(raw, ""), tmp_path / "derivatives", raw)

    assert errors_of(require_tool("bids-validator-deno"), output) == []


def test_derivatives_of_dicom_studies_are_valid(
    config: Config, dicom: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    output = segment(config, dicom_cases([dicom], quiet), tmp_path / "derivatives", None)

    assert errors_of(require_tool("bids-validator-deno"), output) == []


def test_the_validator_can_find_an_error(
    raw: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    for number in range(8):
        write_json(tmp_path / f"stray-{number}.json", {"Name": 1})

    found = errors_of(require_tool("bids-validator-deno"), tmp_path)

    assert any(
        "dataset_description" in each.lower() or "MISSING_DATASET_DESCRIPTION" in each for each in found
    )
