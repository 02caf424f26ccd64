"""What a result points to: each reference against the images of the source and the other results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.verify.source import SourceStudy

# Earlier reports are not of this answer; they are looked at in `gate.check_predecessors`.
_NOT_OF_THIS_ANSWER = "PredecessorDocumentsSequence"


@dataclass(frozen=True)
class Reference:
    """One reference: the instance and its class.

    The series and study are those under which it stands (empty where none is named).
    """

    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str
    StudyInstanceUID: str


def check_references(dataset: Dataset, source: SourceStudy, results: Iterable[Dataset]) -> None:
    """Refuse a result that points to an instance that is neither of the source nor of this answer.

    A reference under another name than the instance's own is refused, too.
    """
    names = {
        uid: (instance.SOPClassUID, instance.SeriesInstanceUID) for uid, instance in source.instances.items()
    }
    names |= {
        str(result.SOPInstanceUID): (str(result.SOPClassUID), str(result.SeriesInstanceUID))
        for result in results
    }
    for reference in walk_references(dataset):
        _check(reference, names, source.StudyInstanceUID)
    series = {series for _, series in names.values()}
    for item in dataset.get("ReferencedSeriesSequence") or ():
        if str(item.SeriesInstanceUID) not in series:
            raise ResultRejected("the result points to a series that is not of this study")


def walk_references(dataset: Dataset, series: str = "", study: str = "") -> Iterator[Reference]:
    """Give every reference of a dataset, however deep it lies."""
    for element in dataset:
        if element.VR != "SQ" or element.keyword == _NOT_OF_THIS_ANSWER:
            continue
        for item in element.value:
            # Only these sequences say of which series and study the items below them are (PS3.3 10.4,
            # C.17.2).
            under_series = str(item.get("SeriesInstanceUID") or series)
            under_study = str(item.get("StudyInstanceUID") or study)
            if "ReferencedSOPInstanceUID" in item:
                yield Reference(
                    str(item.ReferencedSOPInstanceUID),
                    str(item.get("ReferencedSOPClassUID") or ""),
                    under_series,
                    under_study,
                )
            yield from walk_references(item, under_series, under_study)


def _check(reference: Reference, names: Mapping[str, tuple[str, str]], StudyInstanceUID: str) -> None:
    if reference.SOPInstanceUID not in names:
        raise ResultRejected("the result points to an instance that is not of this study")
    sop_class, series = names[reference.SOPInstanceUID]
    if reference.SOPClassUID != sop_class:
        raise ResultRejected(
            "the result names another SOP class than that of the instance to which it points"
        )
    if reference.SeriesInstanceUID not in ("", series):
        raise ResultRejected("the result names another series than that of the instance to which it points")
    if reference.StudyInstanceUID not in ("", StudyInstanceUID):
        raise ResultRejected("the result points into another study")
