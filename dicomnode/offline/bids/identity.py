"""Who is who: subject labels that tell nothing.

The file that links the labels to patients is kept apart and private.

A label is a keyed hash (HMAC-SHA-256) of the patient's identifier: without the key, which lies in that file,
nobody can make it from a list of patients. With the same file the same patient gets the same label in a later
run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import ConfigError
from dicomnode.offline.bids.names import CaseLabel

_LABEL_LENGTH = 8


@dataclass(frozen=True)
class StudyIdentity:
    """What tells one study and its patient from others.

    `patient` is issuer and ID, or the study's UID where there is no ID.
    """

    StudyInstanceUID: str
    patient: str
    StudyDate: str = ""
    StudyTime: str = ""


@dataclass(frozen=True)
class KnownSubject:
    """One patient of the linking file: session label to study."""

    patient: str
    sessions: Mapping[str, StudyIdentity]


@dataclass(frozen=True)
class Registry:
    """The content of the linking file: the secret key, and subject label to patient."""

    key: bytes
    subjects: Mapping[str, KnownSubject]

    def label_of(self, StudyInstanceUID: str) -> CaseLabel:
        """Return the label of a study that was registered."""
        matching_subject = (
            CaseLabel(subject, session)
            for subject, known_subject in self.subjects.items()
            for session, study in known_subject.sessions.items()
            if study.StudyInstanceUID == StudyInstanceUID
        )
        return next(matching_subject)


def register(registry: Registry, studies: Sequence[StudyIdentity]) -> Registry:
    """Return the registry with these studies in it.

    New sessions are numbered by date, those that are known keep their number.
    """
    subjects = dict(registry.subjects)
    for study in sorted(
        studies,
        key=lambda study_entry: (study_entry.StudyDate, study_entry.StudyTime, study_entry.StudyInstanceUID),
    ):
        subject = _subject_label(registry.key, study.patient, subjects)
        known_subject = subjects.get(subject, KnownSubject(study.patient, {}))
        if any(
            study_entry.StudyInstanceUID == study.StudyInstanceUID
            for study_entry in known_subject.sessions.values()
        ):
            continue
        number = max((int(session) for session in known_subject.sessions), default=0) + 1
        subjects[subject] = KnownSubject(study.patient, {**known_subject.sessions, f"{number:02d}": study})
    return Registry(registry.key, subjects)


def load_registry(path: Path, fresh_key: bytes) -> Registry:
    """Read the linking file, or begin a new one with `fresh_key`.

    Raises
    ------
    ConfigError
        The file cannot be read, or others than its owner may read it.
    """
    if not path.exists():
        return Registry(fresh_key, {})
    if path.stat().st_mode & 0o077:
        raise ConfigError(
            [f"{path}: others may read this file, which links subjects to patients; `chmod 600` it"]
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        subjects = {
            subject: KnownSubject(
                known_subject["Patient"],
                {session: StudyIdentity(**study) for session, study in known_subject["Sessions"].items()},
            )
            for subject, known_subject in content["Subjects"].items()
        }
        return Registry(bytes.fromhex(content["Key"]), subjects)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ConfigError(
            [f"{path}: this is no linking file of an earlier run ({type(problem).__name__})"]
        ) from None


def save_registry(path: Path, registry: Registry) -> None:
    """Write the linking file for its owner alone (mode 0600 from its first byte)."""
    content = {
        "About": (
            "Links subject labels to patients: personal data. Keep it apart from the dataset, "
            "never publish it."
        ),
        "Key": registry.key.hex(),
        "Subjects": {
            subject: {
                "Patient": known_subject.patient,
                "Sessions": {session: vars(study) for session, study in known_subject.sessions.items()},
            }
            for subject, known_subject in sorted(registry.subjects.items())
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(
        os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as handle:
        json.dump(content, handle, indent=1)
    partial.replace(path)


def _subject_label(key: bytes, patient: str, subjects: Mapping[str, KnownSubject]) -> str:
    """Return the patient's label; in the rare case that it is another patient's already, a longer one."""
    digest = hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()
    lengths = range(_LABEL_LENGTH, len(digest) + 1)
    return next(
        digest[:n] for n in lengths if digest[:n] not in subjects or subjects[digest[:n]].patient == patient
    )
