"""The earlier study of the same patient whose lesions this node outlined: found by the files' own headers.

The ledger holds no patient data, so who a study is of is read from the files each time and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dicomnode.ledger.ledger import Ledger
from dicomnode.records import EarlierStudy, IndexedInstance
from dicomnode.study.person import read_texts

_IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate")
SEARCHED = 500
"""How many of the newest segmentations are looked at."""

Patient = tuple[str, ...]
Moment = tuple[str, str]


def find_earlier(
    ledger: Ledger, spool: Path, StudyInstanceUID: str, instances: Sequence[IndexedInstance]
) -> EarlierStudy | None:
    """Return the newest study before this one, of the same patient, that has a segmentation of ours.

    The result is None when there is none.

    The same patient has the same ID, issuer and date of birth; one without an ID, or a study without a date,
    is compared with none.
    """
    if not instances:
        return None
    current_header = _read(spool / instances[0].path)
    if current_header is None:
        return None
    patient, moment = current_header
    best = choose_earlier(
        patient,
        moment,
        ((uid, spool / path) for uid, path in ledger.history.segmentations(StudyInstanceUID, SEARCHED)),
    )
    if best is None:
        return None
    uid, path = best
    return EarlierStudy(uid, tuple(ledger.instances.of_study(uid)), path)


def choose_earlier(
    patient: Patient, moment: Moment, candidates: Iterable[tuple[str, Path]]
) -> tuple[str, Path] | None:
    """Return the newest of (study, segmentation) that is of this patient and before this moment."""
    fitting = []
    for uid, path in candidates:
        earlier_header = _read(path)
        if earlier_header is not None and earlier_header[0] == patient and earlier_header[1] < moment:
            fitting.append((earlier_header[1], uid, path))
    return max(fitting)[1:] if fitting else None


def _read(path: Path) -> tuple[Patient, Moment] | None:
    # Removed or damaged: what cannot be read is nobody's earlier study.
    texts = read_texts(path, (*_IDENTITY, "StudyDate", "StudyTime"))
    if texts is None:
        return None
    *patient, date, time = texts
    return (tuple(patient), (date, time)) if patient[0] and date else None
