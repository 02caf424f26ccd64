"""`dicomnode segment`: the node's own image path on files; BIDS derivatives out.

It needs neither ledger nor network.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dicomnode import __version__
from dicomnode.answer import StudyTask, build_recipe, refusal_of, solve_study
from dicomnode.errors import ResultRejected, StudyRefused, UnreadableInstance, describe_bug
from dicomnode.offline.bids.dataset import find_bids_cases
from dicomnode.offline.bids.derivatives import Origin, is_finished, write_answer
from dicomnode.offline.bids.names import CaseLabel, entities_of, hashed_label
from dicomnode.offline.bids.place import case_folder, clear
from dicomnode.offline.folders import files_below
from dicomnode.records import EarlierStudy, Finding, IndexedInstance, Role, SetAside
from dicomnode.results.outcome import judge, summarize
from dicomnode.results.records import EncodedResult
from dicomnode.results.seg.earlier import referenced_series
from dicomnode.settings.config import Config
from dicomnode.states import Outcome
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.volumes.nifti import read_nifti
from pipeline.errors import CaseRefused, PipelineError
from pipeline.plan import make_plan
from pipeline.records import ROLES, PipelineResult
from pipeline.run import run_pipeline

Progress = Callable[[str], None]

# NIfTI carries no frame of reference: two files that are given together are taken to share one.
NIFTI_FRAME_OF_REFERENCE = "2.25.101"


@dataclass(frozen=True)
class OfflineCase:
    """What is to be segmented.

    NIfTI files or a DICOM study, or a `problem` that was seen before anything was read.

    Attributes
    ----------
    name
        What the user knows the case by.
    uris
        Role to BIDS URI, for images that lie in a dataset.
    earlier
        The study to compare with (DICOM only).
    set_aside
        Images of the study that cannot be read (of a received study).
    """

    label: CaseLabel
    name: str
    files: Mapping[Role, Path] = field(default_factory=dict)
    uris: Mapping[Role, str] = field(default_factory=dict)
    instances: tuple[IndexedInstance, ...] = ()
    earlier: EarlierStudy | None = None
    set_aside: tuple[SetAside, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class OfflineTask:
    """A case and where its answer goes; it crosses to a worker process."""

    case: OfflineCase
    config: Config
    output: Path


@dataclass(frozen=True)
class OfflineAnswer:
    """What became of one case; `outcome` is the node's, or "skipped"."""

    label: CaseLabel
    name: str
    outcome: str
    summary: str
    seconds: float = 0.0

    @property
    def is_answered(self) -> bool:
        """Whether there is a segmentation, now or from an earlier run."""
        return self.outcome in (Outcome.LESIONS, Outcome.NEGATIVE, Outcome.UNDETERMINED, "skipped")


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
            studies[header.StudyInstanceUID].append(
                IndexedInstance(str(path.resolve()), path.stat().st_mtime, header)
            )
    return {uid: tuple(instances) for uid, instances in studies.items()}


def find_prior(folder: Path, progress: Progress) -> EarlierStudy:
    """Return the earlier study in a folder: its images, and this node's segmentation of them.

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
        raise StudyRefused(
            f"{path}: the images under this segmentation are not in {folder}", code="earlier-images-missing"
        )
    raise StudyRefused(
        f"{folder}: there is no segmentation of this node; give the earlier images and their seg.dcm",
        code="earlier-unreadable",
    )


def dicom_cases(
    inputs: Iterable[Path], progress: Progress, earlier: EarlierStudy | None = None
) -> tuple[OfflineCase, ...]:
    """Return one case a study, labelled by a hash of its UID.

    The same study is the same case in every run.
    """
    studies = sorted(find_studies(inputs, progress).items())
    return tuple(
        OfflineCase(hashed_label(uid.encode()), uid, instances=instances, earlier=earlier)
        for uid, instances in studies
    )


def bids_cases(root: Path, select: str) -> tuple[OfflineCase, ...]:
    """Return the subjects and sessions of a raw BIDS dataset."""
    cases = []
    for bids_case in find_bids_cases(root, select):
        uris = {role: f"bids:raw:{path.as_posix()}" for role, path in bids_case.files.items()}
        files = {role: root / path for role, path in bids_case.files.items()}
        cases.append(
            OfflineCase(bids_case.label, bids_case.label.stem, files, uris, problem=bids_case.problem)
        )
    return tuple(cases)


def nifti_case(files: Mapping[Role, Path]) -> OfflineCase:
    """Return the case of single files, labelled as BIDS file names say, else by a hash of their content."""
    entities = [entities_of(path.name) for path in files.values()]
    named = {(entity_pair.get("sub", ""), entity_pair.get("ses", "")) for entity_pair in entities}
    name = " + ".join(path.name for path in files.values())
    if len(named) == 1 and (label := named.pop())[0]:
        return OfflineCase(CaseLabel(*label), name, files)
    return OfflineCase(
        hashed_label(*(path.read_bytes() for path in files.values() if path.is_file())), name, files
    )


def answer_key(task: OfflineTask) -> str:
    """Return a hash of the input and of every setting that the answer depends on.

    Which series of a DICOM study are its T1 and FLAIR is decided later, so its plan is that for every image
    that the network can take.

    Raises
    ------
    PipelineError
        A configured bundle is missing, or was not trained for these images.
    """
    recipe = build_recipe(task.config)
    roles = tuple(task.case.files) or ROLES
    settings = {
        "software": __version__,
        "plan": make_plan(recipe, roles).digest(),
        "selection": task.config.selection.model_dump(mode="json") if task.case.instances else {},
        "results": task.config.results.model_dump(mode="json") if task.case.instances else {},
        "instances": sorted(instance.header.SOPInstanceUID for instance in task.case.instances),
        "earlier": _digest(task.case.earlier.segmentation) if task.case.earlier else "",
        "files": {role: _digest(path) for role, path in task.case.files.items()},
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def find_finished(task: OfflineTask) -> bool:
    """Return whether an earlier run answered this case from the same input with the same settings."""
    try:
        key = answer_key(task)
    except PipelineError:
        # Whatever it is, answering the case says it by name.
        return False
    return is_finished(task.output, task.case.label, key)


def answer_case(task: OfflineTask, progress: Progress | None = None) -> OfflineAnswer:
    """Answer one case; whatever is wrong with it becomes its outcome and never ends the run."""
    started = time.monotonic()
    case = task.case
    with case_folder(task.output, case.label) as folder:
        try:
            outcome, summary = _answer_into(folder, task, progress)
        except Exception as bug:  # noqa: BLE001  one subject never stops the others
            clear(folder)
            outcome, summary = Outcome.FAILED, describe_bug(bug)
    return OfflineAnswer(case.label, case.name, outcome.value, summary, time.monotonic() - started)


def _answer_into(folder: Path, task: OfflineTask, progress: Progress | None) -> tuple[Outcome, str]:
    if task.case.problem:
        return Outcome.REFUSED, f"images-not-chosen: {task.case.problem}"
    if task.case.instances:
        return _answer_study(folder, task, progress)
    try:
        volumes = {role: read_nifti(path, NIFTI_FRAME_OF_REFERENCE) for role, path in task.case.files.items()}
        result = run_pipeline(volumes, build_recipe(task.config), progress)
    except CaseRefused as refusal:
        return Outcome.REFUSED, f"{refusal.code}: {refusal}"
    used_volumes = {role: volumes[role] for role in result.used}
    write_answer(folder, task.case.label, used_volumes, result, Origin(task.case.uris, {}, answer_key(task)))
    return _conclude(result, ())


def _answer_study(folder: Path, task: OfflineTask, progress: Progress | None) -> tuple[Outcome, str]:
    uid = task.case.name
    study = StudyTask(uid, 1, task.case.instances, task.config, task.case.set_aside, task.case.earlier)
    try:
        solved = solve_study(study, progress)
    except CaseRefused as refusal:
        _write_objects(folder, refusal_of(study, refusal.code, str(refusal), Outcome.REFUSED))
        return Outcome.REFUSED, f"{refusal.code}: {refusal}"
    except ResultRejected as rejected:
        _write_objects(folder, refusal_of(study, "result-verification-failed", str(rejected), Outcome.FAILED))
        return Outcome.FAILED, str(rejected)
    _write_objects(folder, solved.encoded)
    series = {source.role: source.SeriesInstanceUID for source in solved.loaded.sources}
    facts = {
        "StudyInstanceUID": uid,
        "SeriesInstanceUIDs": series,
        "StudyFindings": [asdict(finding) for finding in solved.loaded.findings],
    }
    used_volumes = {role: volume for role, volume in solved.loaded.volumes.items() if role in series}
    write_answer(folder, task.case.label, used_volumes, solved.result, Origin({}, facts, answer_key(task)))
    return _conclude(solved.result, solved.loaded.findings)


def _conclude(result: PipelineResult, findings: Sequence[Finding]) -> tuple[Outcome, str]:
    outcome = judge(result, findings)
    return outcome, summarize(result, outcome)


def _files(inputs: Iterable[Path]) -> Iterable[Path]:
    for path in inputs:
        if path.is_dir():
            yield from files_below(path)
        elif path.is_file():
            yield path
        else:
            raise StudyRefused(f"{path}: no such file or folder", code="no-input")


def _write_objects(folder: Path, encoded: Iterable[EncodedResult]) -> None:
    dicom_folder = folder / "dicom"
    dicom_folder.mkdir(exist_ok=True)
    for item in encoded:
        (dicom_folder / item.filename).write_bytes(item.data)


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
