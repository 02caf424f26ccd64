"""Query, retrieve and storage commitment of a made-up archive, answered from the files that it keeps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicomnode.simulator.manners import Manners

_LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_NO_SUCH_INSTANCE = 0x0112
_UNABLE = 0xC000
_MOVE_DESTINATION_UNKNOWN = 0xA801


class Shelves:
    """The files of one folder, as the services of an archive see them."""

    def __init__(self, folder: Path, ae_title: str, manners: Manners) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.manners = manners
        self._reports: list[threading.Thread] = []
        self.asked: list[str] = []
        """Transaction UIDs of every storage commitment that was asked for."""

    def handlers(self) -> list[Any]:
        """Return (event, handler) pairs of all that is offered."""
        return [
            (evt.EVT_N_ACTION, self._commit),
            (evt.EVT_DIMSE_SENT, self._report),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
        ]

    def offer(self, entity: AE) -> None:
        """Add the presentation contexts of what the manners allow."""
        if self.manners.commitment != "none":
            entity.add_supported_context(StorageCommitmentPushModel)
        if self.manners.find != "none":
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if "get" in self.manners.retrieve:
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        if "move" in self.manners.retrieve:
            entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)

    def _kept(self) -> list[Dataset]:
        return [dcmread(path) for path in sorted(self.folder.glob("*.dcm"))]

    def _commit(self, event: Any) -> tuple[int, None]:
        information = event.action_information
        self.asked.append(str(information.TransactionUID))
        kept_uids = {path.stem for path in self.folder.glob("*.dcm")} - self.manners.loses
        report, event_type = Dataset(), 1
        report.TransactionUID = information.TransactionUID
        report.ReferencedSOPSequence = [
            item for item in information.ReferencedSOPSequence if item.ReferencedSOPInstanceUID in kept_uids
        ]
        failed = [
            item
            for item in information.ReferencedSOPSequence
            if item.ReferencedSOPInstanceUID not in kept_uids
        ]
        if failed:
            event_type = 2
            for item in failed:
                item.FailureReason = _NO_SUCH_INSTANCE
            report.FailedSOPSequence = failed
        if not report.ReferencedSOPSequence:
            del report.ReferencedSOPSequence
        report_sender = {"same": self._tell_here, "new": self._tell_there}.get(self.manners.commitment)
        if report_sender is not None:
            arguments = (event.assoc, event.assoc.requestor.ae_title, report, event_type)
            self._reports.append(threading.Thread(target=report_sender, args=arguments, daemon=True))
        return 0x0000, None

    def _report(self, event: Any) -> None:
        # The report must not overtake the answer to the N-ACTION.
        if type(event.message).__name__ == "N_ACTION_RSP" and self._reports:
            self._reports.pop().start()

    def _tell_here(self, association: Any, _asker: str, report: Dataset, event_type: int) -> None:
        association.send_n_event_report(
            report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )

    def _tell_there(self, _association: Any, asker: str, report: Dataset, event_type: int) -> None:
        address = self.manners.address_of(asker)
        if address is None:
            return
        entity = AE(ae_title=self.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
        contexts = [build_context(StorageCommitmentPushModel)]
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate(*address, contexts=contexts, ae_title=asker.strip(), ext_neg=[role])
        if association.is_established:
            association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            association.release()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        level = str(keys.QueryRetrieveLevel)
        if level == "IMAGE" and self.manners.find == "series":
            yield _UNABLE, None
            return
        if self.manners.lists_late > 0:
            self.manners.lists_late -= 1
            return
        groups: dict[str, list[Dataset]] = {}
        for instance in self._matching(keys):
            groups.setdefault(str(instance.get(_LEVELS[level])), []).append(instance)
        for members in groups.values():
            yield 0xFF00, _answer(keys, members)

    def _get(self, event: Any) -> Iterator[Any]:
        instances = self._matching(event.identifier)
        yield len(instances)
        for instance in instances:
            yield 0xFF00, instance

    def _move(self, event: Any) -> Iterator[Any]:
        address = self.manners.address_of(str(event.move_destination))
        if address is None:
            yield None, None
            return
        instances = self._matching(event.identifier)
        # One context per class: what is kept here is Explicit VR Little Endian.
        contexts = [
            build_context(uid, ExplicitVRLittleEndian)
            for uid in sorted({str(instance.SOPClassUID) for instance in instances})
        ]
        yield (*address, {"contexts": contexts})
        yield len(instances)
        for instance in instances:
            yield 0xFF00, instance

    def _matching(self, keys: Dataset) -> list[Dataset]:
        key_values = {keyword: keys.get(keyword) for keyword in ("PatientID", *_LEVELS.values())}
        return [
            instance
            for instance in self._kept()
            if all(
                not value or instance.get(keyword) in _values(value) for keyword, value in key_values.items()
            )
        ]


def _values(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(element_value) for element_value in value]


def _answer(keys: Dataset, members: list[Dataset]) -> Dataset:
    """Return what is known of a study, series or instance, for the requested keys (PS3.4 C.2.2.1)."""
    answer = Dataset()
    for element in keys:
        keyword = element.keyword
        if keyword == "NumberOfSeriesRelatedInstances":
            answer.NumberOfSeriesRelatedInstances = len(members)
        elif keyword == "ModalitiesInStudy":
            answer.ModalitiesInStudy = sorted({str(member.Modality) for member in members})
        elif keyword == "QueryRetrieveLevel":
            answer.QueryRetrieveLevel = keys.QueryRetrieveLevel
        else:
            setattr(answer, keyword, members[0].get(keyword, ""))
    return answer
