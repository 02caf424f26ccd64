"""`dicomnode bids`: DICOM studies into a raw BIDS dataset of T1w and FLAIR, without names and days.

Which series become T1w and FLAIR, and how they become volumes, is decided as the node decides it. Faces are
not removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicomnode import __version__
from dicomnode.errors import describe_bug
from dicomnode.offline.bids.derivatives import read_table, table_text, write_dataset_files, write_json
from dicomnode.offline.bids.identity import Registry, StudyIdentity
from dicomnode.offline.bids.names import BIDS_VERSION, SUFFIX_OF, CaseLabel
from dicomnode.offline.bids.place import case_folder, clear, replace_file
from dicomnode.offline.bids.sidecar import (
    PARTICIPANT_COLUMNS,
    acquisition_time,
    describe_image,
    describe_participant,
    identify_study,
)
from dicomnode.records import IndexedInstance
from dicomnode.results.headers.source import read_header as read_dataset
from dicomnode.settings.config import Config
from dicomnode.study.headers import read_header
from dicomnode.volumes.nifti import write_nifti
from dicomnode.volumes.study_images import LoadedStudy, load_study
from pipeline.errors import CaseRefused

Studies = Mapping[str, tuple[IndexedInstance, ...]]

README = (
    "T1w and FLAIR images, converted from DICOM by dicomnode.\n\n"
    "Subjects carry labels that tell nothing of them; "
    "the file that links labels to patients lies outside of this folder. Sidecars hold what\n"
    "they need for reading the images, and no names, dates, places or UIDs.\n\n"
    "FACES WERE NOT REMOVED: a head can be recognised from its image. "
    "Deface the images before they leave your institution.\n"
)


@dataclass(frozen=True)
class Converted:
    """What became of one study: "converted", "skipped", "refused" or "failed"."""

    label: CaseLabel
    StudyInstanceUID: str
    outcome: str
    summary: str


def identify_studies(studies: Studies) -> list[StudyIdentity]:
    """Read who each study is of, from its first instance."""
    return [identify_study(uid, read_dataset(Path(instances[0].path))) for uid, instances in studies.items()]


def convert_studies(
    config: Config,
    studies: Studies,
    registry: Registry,
    output: Path,
    overwrite: bool,
    progress: Callable[[str], None],
    count_one: Callable[[], None],
) -> list[Converted]:
    """Convert every study that is in the registry; one that cannot be converted does not stop the others."""
    answers = []
    for uid, instances in sorted(studies.items(), key=lambda item: registry.label_of(item[0]).stem):
        label = registry.label_of(uid)
        progress(label.stem)
        if not overwrite and any((output / label.folder / "anat").glob("*.nii.gz")):
            answers.append(Converted(label, uid, "skipped", "converted by an earlier run"))
        else:
            with case_folder(output, label) as folder:
                answers.append(_convert_study(config, uid, instances, label, folder))
        count_one()
    return answers


def write_dataset(output: Path, studies: Studies, registry: Registry, dates: bool) -> None:
    """Write the dataset's description and the list of participants over all subjects that it holds.

    Parameters
    ----------
    dates
        Whether `sub-..._sessions.tsv` says when each session was.
    """
    description = {
        "Name": "T1w and FLAIR, converted from DICOM",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "dicomnode", "Version": __version__}],
    }
    write_dataset_files(output, description, README)
    rows = {row["participant_id"]: row for row in read_table(output / "participants.tsv")}
    for uid, instances in studies.items():
        label = registry.label_of(uid)
        first = min(registry.subjects[label.subject].sessions)
        if f"sub-{label.subject}" not in rows or label.session == first:
            rows[f"sub-{label.subject}"] = describe_participant(
                label.subject, read_dataset(Path(instances[0].path))
            )
    present = [rows[name] for name in sorted(rows) if (output / name).is_dir()]
    replace_file(output / "participants.tsv", table_text(present, tuple(PARTICIPANT_COLUMNS)))
    write_json(output / "participants.json", PARTICIPANT_COLUMNS)
    if dates:
        _write_sessions(output, registry)


def _convert_study(
    config: Config, uid: str, instances: Sequence[IndexedInstance], label: CaseLabel, folder: Path
) -> Converted:
    try:
        with tempfile.TemporaryDirectory(prefix="dicomnode-") as work_dir:
            loaded = load_study(uid, instances, (), config, Path(work_dir))
        _write_images(loaded, label, folder / "anat")
        return Converted(label, uid, "converted", _told(loaded))
    except CaseRefused as refusal:
        clear(folder)
        return Converted(label, uid, "refused", f"{refusal.code}: {refusal}")
    except Exception as bug:  # noqa: BLE001  one study never stops the others
        clear(folder)
        return Converted(label, uid, "failed", describe_bug(bug))


def _write_images(loaded: LoadedStudy, label: CaseLabel, anat: Path) -> None:
    anat.mkdir()
    for source in loaded.sources:
        volume = loaded.volumes[source.role]
        name = f"{label.stem}_{SUFFIX_OF[source.role]}"
        write_nifti(anat / f"{name}.nii.gz", _compact(volume.array), volume.affine)
        first = source.frames[0].path
        write_json(anat / f"{name}.json", describe_image(read_header(first), read_dataset(first)))


def _told(loaded: LoadedStudy) -> str:
    remarks = [f"{finding.code}" for finding in loaded.findings if finding.grade != "info"]
    images = " and ".join(SUFFIX_OF[source.role] for source in loaded.sources)
    return images + (f" (remarks: {', '.join(remarks)})" if remarks else "")


def _write_sessions(output: Path, registry: Registry) -> None:
    for subject, known_subject in registry.subjects.items():
        rows = [
            {"session_id": f"ses-{session}", "acq_time": acquisition_time(study)}
            for session, study in sorted(known_subject.sessions.items())
            if (output / CaseLabel(subject, session).folder).is_dir()
        ]
        if rows:
            replace_file(output / f"sub-{subject}" / f"sub-{subject}_sessions.tsv", table_text(rows))


def _compact(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return whole numbers as 16 bits where they fit: nothing is lost, and the file is half as large."""
    limits = np.iinfo(np.int16)
    if limits.min <= array.min() and array.max() <= limits.max and (array == np.rint(array)).all():
        return array.astype(np.int16)
    return array
