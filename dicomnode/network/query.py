"""C-FIND SCU (PS3.4 Annex C, Study Root): whether a peer has what it took; which series and studies it has.

Rules for this file:
1. Nothing that a peer does raises: a question has an answer or a `SendOutcome` that says why there is none.
2. What a peer answers is held against what was asked: some ignore the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from dicomnode.network.dial import TAKES_NONE, associated, unanswered
from dicomnode.network.status import judge
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings

FIND = UID(StudyRootQueryRetrieveInformationModelFind)
NOT_OFFERED = "the peer does not offer C-FIND"

_PENDING = (0xFF00, 0xFF01)
# Nobody's study has so many series; a peer that ignores the keys would send its whole archive.
_LARGEST_ANSWER = 20_000


@dataclass(frozen=True)
class InstanceKey:
    """Where an instance lies in a peer's tree."""

    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str


@dataclass(frozen=True)
class SeriesEntry:
    """One series as a peer lists it; the count is None when it does not say."""

    SeriesInstanceUID: str
    Modality: str
    SeriesDescription: str
    NumberOfSeriesRelatedInstances: int | None


@dataclass(frozen=True)
class StudyEntry:
    """One study as a peer lists it; `StudyDate` is YYYYMMDD or empty."""

    StudyInstanceUID: str
    StudyDate: str
    modalities: tuple[str, ...]


def find_instances(
    destination: DestinationSettings,
    instance_keys: Sequence[InstanceKey],
    *,
    calling_ae: str,
    timeout_s: float,
) -> frozenset[str] | SendOutcome:
    """Return which of the wanted SOP Instance UIDs a peer lists.

    A peer that knows no IMAGE level is asked for counts per series.

    A `SendOutcome` is permanent with reason `NOT_OFFERED` when there is no C-FIND, else as the peer failed.
    """
    per_series: dict[tuple[str, str], set[str]] = {}
    for key in instance_keys:
        per_series.setdefault((key.StudyInstanceUID, key.SeriesInstanceUID), set()).add(key.SOPInstanceUID)
    listed_uids: set[str] = set()
    with associated(destination, calling_ae, timeout_s, _contexts()) as association:
        if isinstance(association, SendOutcome):
            return _translated(association)
        for (study, series), uids in per_series.items():
            listed_in_series = _find_in_series(association, study, series, uids)
            if isinstance(listed_in_series, SendOutcome):
                return listed_in_series
            listed_uids |= listed_in_series
    return frozenset(listed_uids)


def find_series(
    destination: DestinationSettings, StudyInstanceUID: str, *, calling_ae: str, timeout_s: float
) -> tuple[SeriesEntry, ...] | SendOutcome:
    """Return the series of a study that a peer lists."""
    keys = _keys(
        "SERIES", StudyInstanceUID=StudyInstanceUID, SeriesInstanceUID="", Modality="", SeriesDescription=""
    )
    keys.NumberOfSeriesRelatedInstances = ""
    answers = _ask_once(destination, keys, calling_ae, timeout_s)
    if isinstance(answers, SendOutcome):
        return answers
    return tuple(
        SeriesEntry(
            str(answer.SeriesInstanceUID),
            str(answer.get("Modality") or ""),
            str(answer.get("SeriesDescription") or ""),
            _count(answer),
        )
        for answer in answers
        if answer.get("SeriesInstanceUID")
        and answer.get("StudyInstanceUID", StudyInstanceUID) == StudyInstanceUID
    )


def find_studies(
    destination: DestinationSettings, PatientID: str, *, calling_ae: str, timeout_s: float
) -> tuple[StudyEntry, ...] | SendOutcome:
    """Return the studies of a patient that a peer lists.

    The ID is used for the question only; it is kept nowhere.
    """
    keys = _keys("STUDY", PatientID=PatientID, StudyInstanceUID="", StudyDate="", ModalitiesInStudy="")
    answers = _ask_once(destination, keys, calling_ae, timeout_s)
    if isinstance(answers, SendOutcome):
        return answers
    return tuple(
        StudyEntry(
            str(answer.StudyInstanceUID),
            str(answer.get("StudyDate") or ""),
            _texts(answer.get("ModalitiesInStudy")),
        )
        for answer in answers
        if answer.get("StudyInstanceUID") and answer.get("PatientID", PatientID) == PatientID
    )


def _find_in_series(
    association: Association, study: str, series: str, uids: set[str]
) -> set[str] | SendOutcome:
    keys = _keys("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series, SOPInstanceUID="")
    answers = _ask(association, keys)
    if not isinstance(answers, SendOutcome):
        return uids & {str(answer.get("SOPInstanceUID", "")) for answer in answers}
    if answers.status is None or answers.verdict == "transient":
        return answers
    keys = _keys(
        "SERIES", StudyInstanceUID=study, SeriesInstanceUID=series, NumberOfSeriesRelatedInstances=""
    )
    answers = _ask(association, keys)
    if isinstance(answers, SendOutcome):
        return answers
    counts = [_count(answer) for answer in answers if answer.get("SeriesInstanceUID") == series]
    return uids if any(count is not None and count >= len(uids) for count in counts) else set()


def _ask_once(
    destination: DestinationSettings, keys: Dataset, calling_ae: str, timeout_s: float
) -> list[Dataset] | SendOutcome:
    with associated(destination, calling_ae, timeout_s, _contexts()) as association:
        return _translated(association) if isinstance(association, SendOutcome) else _ask(association, keys)


def _ask(association: Association, keys: Dataset) -> list[Dataset] | SendOutcome:
    answers: list[Dataset] = []
    try:
        for answer, identifier in association.send_c_find(keys, FIND):
            code = getattr(answer, "Status", None)
            if code is None:
                return unanswered(association)
            if code in _PENDING:
                if identifier is not None:
                    answers.append(identifier)
                if len(answers) > _LARGEST_ANSWER:
                    association.abort()
                    return SendOutcome(
                        "permanent", f"the peer answers C-FIND with more than {_LARGEST_ANSWER} entries", code
                    )
            elif code != 0:
                judgement = judge(code)
                # 0xC000 and the like: what it cannot do now it will not do later (PS3.4 Table C.4-1).
                return SendOutcome(
                    "transient" if judgement.verdict == "transient" else "permanent",
                    f"C-FIND was answered 0x{code:04X}",
                    code,
                )
    except (RuntimeError, ValueError, AttributeError) as problem:
        return SendOutcome("transient", f"the association broke off during C-FIND ({type(problem).__name__})")
    return answers


def _contexts() -> list[PresentationContext]:
    return [build_context(FIND, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]


def _translated(outcome: SendOutcome) -> SendOutcome:
    return SendOutcome("permanent", NOT_OFFERED) if outcome.reason == TAKES_NONE else outcome


def _keys(level: str, **keys: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def _count(answer: Dataset) -> int | None:
    value = answer.get("NumberOfSeriesRelatedInstances")
    return None if value in (None, "") else int(value)


def _texts(value: object) -> tuple[str, ...]:
    if value in (None, ""):
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(str(element_value) for element_value in value)  # type: ignore[attr-defined]
