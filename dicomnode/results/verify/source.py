"""The gate's own reading of the source: patient, study and geometry from the files' bytes.

Rules for this file:
1. Nothing that builds results is used here: what a helper of ours makes of a header is what the gate is to
   judge.
2. A value is taken as it stands. What is missing is missing; nothing is repaired.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from pipeline.records import Array

IDENTITY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_IMAGE = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


@dataclass(frozen=True, eq=False)
class SourcePlane:
    """Where one frame lies.

    Position and direction cosines (row, then column) in LPS mm, and (row, column) spacing in mm.
    """

    position: Array
    orientation: Array
    spacing: Array


@dataclass(frozen=True, eq=False)
class SourceInstance:
    """One image of the source; `planes[n]` is frame n + 1, and empty where the header has no geometry."""

    SOPClassUID: str
    SeriesInstanceUID: str
    FrameOfReferenceUID: str
    planes: tuple[SourcePlane, ...]


@dataclass(frozen=True, eq=False)
class SourceStudy:
    """What results are held against.

    The identity (keyword to values as text) and the images by SOP Instance UID.
    """

    StudyInstanceUID: str
    identity: Mapping[str, tuple[str, ...]]
    instances: Mapping[str, SourceInstance]


def read_source_study(template: Path, sources: Sequence[SourceSeries] = ()) -> SourceStudy:
    """Read the file that gives the identity, and every image that the results may point to.

    Raises
    ------
    ResultRejected
        A file cannot be read, is of another study, or is another image than it is taken for.
    """
    first = _read(template, (*IDENTITY, *_IMAGE))
    study = _text(first, "StudyInstanceUID")
    instances = {} if sources else {_text(first, "SOPInstanceUID"): _describe(first)}
    for source in sources:
        names: dict[Path, set[str]] = {}
        for frame in source.frames:
            names.setdefault(frame.path, set()).add(frame.SOPInstanceUID)
        for path, uids in names.items():
            dataset = first if path == template else _read(path, _IMAGE)
            if _text(dataset, "StudyInstanceUID") != study:
                raise ResultRejected("the source's images are of different studies")
            if uids != {_text(dataset, "SOPInstanceUID")}:
                raise ResultRejected("a file of the source is another image than the one that was segmented")
            instances[_text(dataset, "SOPInstanceUID")] = _describe(dataset)
    return SourceStudy(study, {keyword: texts_of(first, keyword) for keyword in IDENTITY}, instances)


def texts_of(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as text without padding; none where all are empty."""
    value = dataset.get(keyword)
    values = list(value) if isinstance(value, MultiValue) else [value]
    texts = tuple(str(item).strip() for item in values if item is not None)
    return texts if any(text.strip("^= ") for text in texts) else ()


def _read(path: Path, keywords: Sequence[str]) -> Dataset:
    """Return these elements of a file, and no others; all of it before the pixels is walked through."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
            # Values are decoded when they are first asked for.
            for keyword in keywords:
                dataset.get(keyword)
    except Exception as problem:  # noqa: BLE001  pydicom fails in many ways on odd headers, all alike to us
        raise ResultRejected(
            f"a source image cannot be read for comparison: {type(problem).__name__}"
        ) from None
    return dataset


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "")


def _describe(dataset: Dataset) -> SourceInstance:
    return SourceInstance(
        _text(dataset, "SOPClassUID"),
        _text(dataset, "SeriesInstanceUID"),
        _text(dataset, "FrameOfReferenceUID"),
        _read_planes(dataset),
    )


def _read_planes(dataset: Dataset) -> tuple[SourcePlane, ...]:
    """Return the plane of each frame.

    A multi-frame image has them in its functional groups (PS3.3 C.7.6.16.2).
    """
    try:
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            return (_plane(dataset, dataset, dataset),)
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        macros = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        return tuple(
            _plane(*((groups.get(macro) or shared.get(macro))[0] for macro in macros))
            for groups in dataset.PerFrameFunctionalGroupsSequence
        )
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        # A header without geometry can still be answered with a refusal; a segmentation on it is refused in
        # the mask's check.
        return ()


def _plane(position: Dataset, orientation: Dataset, measures: Dataset) -> SourcePlane:
    return SourcePlane(
        np.array([float(value) for value in position.ImagePositionPatient]),
        np.array([float(value) for value in orientation.ImageOrientationPatient]),
        np.array([float(value) for value in measures.PixelSpacing]),
    )
