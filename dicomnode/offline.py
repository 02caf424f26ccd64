"""`dicomnode segment`: the node's own image path on files, without ledger and network."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomnode.answer import StudyTask, build_recipe, refusal_of, solve_study, summarize
from dicomnode.config import Config
from dicomnode.errors import ResultRejected, StudyRefused, UnreadableInstance
from dicomnode.records import EarlierStudy, IndexedInstance, Role
from dicomnode.results.build import EncodedResult
from dicomnode.results.earlier import referenced_series
from dicomnode.results.preview import montage_png
from dicomnode.results.table import write_table
from dicomnode.states import Outcome
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.volumes.nifti import read_nifti, write_nifti
from pipeline.errors import PipelineError
from pipeline.records import PipelineResult, Volume
from pipeline.run import run_pipeline

Progress = Callable[[str], None]

# NIfTI carries no frame of reference: two files that are given together are taken to share one.
NIFTI_FRAME_OF_REFERENCE = "2.25.101"


@dataclass(frozen=True)
class OfflineAnswer:
    """What became of one case, and where its files lie."""

    case: str
    outcome: Outcome
    summary: str
    folder: Path
    seconds: float


def find_studies(inputs: Iterable[Path], progress: Progress) -> Mapping[str, tuple[IndexedInstance, ...]]:
    """Group the DICOM files below `inputs` by Study Instance UID; what is not DICOM is passed over."""
    studies: dict[str, list[IndexedInstance]] = defaultdict(list)
    for path in _files(inputs):
        progress(f"reading {path.name}")
        try:
            header = read_header(path)
        except UnreadableInstance:
            continue
        if is_answerable(header):
            studies[header.StudyInstanceUID].append(IndexedInstance(str(path.resolve()), path.stat().st_mtime, header))
    return {uid: tuple(instances) for uid, instances in studies.items()}


def find_prior(folder: Path, progress: Progress) -> EarlierStudy:
    """Return the earlier study in a folder that holds its images and a segmentation that this node made of them.

    Raises
    ------
    StudyRefused
        There is no such segmentation, or not the images that it lies on.
    """
    studies = find_studies([folder], progress)
    for path in _files([folder]):
        try:
            series = referenced_series(path)
        except StudyRefused:
            continue
        for uid, instances in studies.items():
            if any(instance.header.SeriesInstanceUID == series for instance in instances):
                return EarlierStudy(uid, instances, path)
        raise StudyRefused(f"{path}: the images under this segmentation are not in {folder}", code="earlier-images-missing")
    raise StudyRefused(
        f"{folder}: there is no segmentation of this node; give the earlier images and their seg.dcm", code="earlier-unreadable"
    )


def segment_study(
    config: Config,
    uid: str,
    instances: tuple[IndexedInstance, ...],
    folder: Path,
    progress: Progress,
    earlier: EarlierStudy | None = None,
) -> OfflineAnswer:
    """Answer one DICOM study into `folder`: SEG, SR, NIfTI, table, montage; a refusal writes the report that says why."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    task = StudyTask(uid, 1, instances, config, earlier=earlier)
    try:
        solved = solve_study(task, progress)
    except (StudyRefused, PipelineError) as refusal:
        _write_objects(folder, refusal_of(task, refusal.code, str(refusal), Outcome.REFUSED))
        return OfflineAnswer(uid, Outcome.REFUSED, f"{refusal.code}: {refusal}", folder, time.monotonic() - started)
    except ResultRejected as rejected:
        _write_objects(folder, refusal_of(task, "result-verification-failed", str(rejected), Outcome.FAILED))
        return OfflineAnswer(uid, Outcome.FAILED, str(rejected), folder, time.monotonic() - started)
    _write_objects(folder, solved.encoded)
    _write_case(folder, solved.reference, solved.result)
    return _answered(uid, solved.result, folder, started)


def segment_nifti(config: Config, files: Mapping[Role, Path], folder: Path, progress: Progress) -> OfflineAnswer:
    """Segment NIfTI volumes into `folder`: NIfTI, table, montage (no DICOM: there is no patient to attach it to)."""
    started = time.monotonic()
    case = " + ".join(path.name for path in files.values())
    try:
        volumes = {role: read_nifti(path, NIFTI_FRAME_OF_REFERENCE) for role, path in files.items()}
        result = run_pipeline(volumes, build_recipe(config), progress)
    except (StudyRefused, PipelineError) as refusal:
        return OfflineAnswer(case, Outcome.REFUSED, f"{refusal.code}: {refusal}", folder, time.monotonic() - started)
    folder.mkdir(parents=True, exist_ok=True)
    _write_case(folder, volumes[result.reference_role], result)
    return _answered(case, result, folder, started)


def _answered(case: str, result: PipelineResult, folder: Path, started: float) -> OfflineAnswer:
    outcome = Outcome.LESIONS if result.lesions else Outcome.NEGATIVE
    return OfflineAnswer(case, outcome, summarize(result), folder, time.monotonic() - started)


def _files(inputs: Iterable[Path]) -> Iterable[Path]:
    for path in inputs:
        if path.is_dir():
            yield from sorted(item for item in path.rglob("*") if item.is_file())
        elif path.is_file():
            yield path
        else:
            raise StudyRefused(f"{path}: no such file or folder", code="no-input")


def _write_objects(folder: Path, encoded: Iterable[EncodedResult]) -> None:
    for item in encoded:
        (folder / item.filename).write_bytes(item.data)


def _write_case(folder: Path, reference: Volume, result: PipelineResult) -> None:
    write_nifti(folder / "lesions.nii.gz", result.labels.array, result.labels.affine)
    write_nifti(folder / "probability.nii.gz", result.probability.array, result.probability.affine)
    write_nifti(folder / "brain.nii.gz", result.brain_mask.array, result.brain_mask.affine)
    (folder / "montage.png").write_bytes(montage_png(reference, result))
    write_table(folder / "lesions.csv", result)
    (folder / "steps.json").write_text(json.dumps(_steps(result), indent=1, default=str))


def _steps(result: PipelineResult) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "seconds": round(step.seconds, 3), "cached": step.cached, "parameters": dict(step.parameters)}
        for step in result.steps
    ]
