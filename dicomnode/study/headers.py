"""What one stored instance says about itself, read once, without its pixels.

Tolerant of what real headers get wrong.

Nothing of the patient is kept but a mark that says whether two instances of a study carry the same patient
(`person.mark_identity`); this module copies named elements only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError

from dicomnode.errors import UnreadableInstance
from dicomnode.records import InstanceHeader
from dicomnode.spool.opening import open_instance
from dicomnode.study.bombs import CountedFile, refuse_bombs
from dicomnode.study.classes import asks_for_answer, is_image
from dicomnode.study.elements import (
    read_integer,
    read_number,
    read_private_number,
    read_text,
    read_texts,
    read_uid,
)
from dicomnode.study.frames import FrameFacts, fill_from_converted, read_frames
from dicomnode.study.person import mark_identity
from dicomnode.study.sequence_elements import read_agent_attribute, read_sequence_elements
from dicomnode.uids import is_uid

_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED_LENGTH = 0xFFFFFFFF
# Pixel Data, Float Pixel Data, Double Float Pixel Data (PS3.3 C.7.6.3, C.7.6.24).
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_IDENTITY = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
# "DICM", and the group of the file meta information that follows it (PS3.10 7.1).
_FILE_PREFIX = b"DICM\x02\x00"
# A whole file where a dataset belongs: its prefix stands behind the file meta information that reception
# wrote.
_SEARCHED_BYTES = 2048


# Private elements, as pydicom's public dictionary names them: (group, creator, element). First those that
# count a series: Philips "Number of Slices MR", GE "Images in Series", Elscint "number of images in series".
_SERIES_COUNTS = (
    (0x2001, "Philips Imaging DD 001", 0x18),
    (0x0025, "GEMS_SERS_01", 0x07),
    (0x07A1, "ELSCINT1", 0x02),
)
# Then those that count the positions of an acquisition, which may be fewer than its images: GE "Locations in
# acquisition" and "Slices Per Volume", Philips "Number of Stack Slices" and "Number of Locations", Siemens
# (before the CSA header) "Number of Slices nominal" and "Number of 3D Image Partitions".
_LOCATION_COUNTS = (
    (0x0021, "GEMS_RELA_01", 0x4F),
    (0x0043, "GEMS_PARM_01", 0x79),
    (0x2001, "Philips Imaging DD 001", 0x2D),
    (0x2001, "Philips Imaging DD 001", 0x15),
    (0x0021, "SIEMENS MR VA0  GEN", 0x40),
    (0x0021, "SIEMENS MR VA0  GEN", 0x34),
)


def is_answerable(header: InstanceHeader) -> bool:
    """Return whether a study with this instance waits for an answer.

    An image does, a report or a segmentation does not.
    """
    return asks_for_answer(header.SOPClassUID)


def read_header(path: Path) -> InstanceHeader:
    """Read the header of a stored instance.

    Parameters
    ----------
    path
        A DICOM file; one without preamble and file meta information is read too.

    Raises
    ------
    UnreadableInstance
        "not-dicom", "file-in-dataset", "truncated", "identity-missing", "too-..." or "unreadable", then a
        sentence. As far as it can be read, the error says which study the instance is of.
    """
    # pydicom warns about each odd value; what matters of it becomes a finding.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                refuse_bombs(file)
            with open_instance(path) as file:
                size_bytes = file.seek(0, os.SEEK_END)
                file.seek(0)
                dataset = _parse(file)
                _refuse_truncated(dataset, file, size_bytes)
                return _describe(dataset)
        except UnreadableInstance as problem:
            raise _name_file_in_dataset(path, problem) from None
        except Exception as problem:  # noqa: BLE001 - see below
            # Whatever bytes a peer sent, the node goes on: pydicom may fail in any way on garbage, also
            # lazily, and nested too deep.
            unreadable = UnreadableInstance(f"unreadable: the file cannot be read ({type(problem).__name__})")
            raise _name_file_in_dataset(path, unreadable) from None


def _parse(file: BinaryIO) -> FileDataset:
    try:
        dataset = pydicom.dcmread(cast("BinaryIO", CountedFile(file)), stop_before_pixels=True, force=True)
    except (InvalidDicomError, EOFError):
        raise UnreadableInstance("not-dicom: the file is not a DICOM instance") from None
    # Whole values: the first of two would be another object's name.
    missing = [keyword for keyword in _IDENTITY if not is_uid(read_uid(dataset, keyword))]
    if len(missing) == len(_IDENTITY):
        raise UnreadableInstance("not-dicom: the file has none of the identifiers of a DICOM instance")
    if missing:
        study = "" if "StudyInstanceUID" in missing else read_uid(dataset, "StudyInstanceUID")
        raise UnreadableInstance(
            f"identity-missing: {', '.join(missing)} is absent or not a UID", StudyInstanceUID=study
        )
    return dataset


def _name_file_in_dataset(path: Path, problem: UnreadableInstance) -> UnreadableInstance:
    """Return the error that says more, where a whole file was put into the dataset.

    A sender did so, preamble and all.
    """
    if problem.StudyInstanceUID:
        return problem
    try:
        with path.open("rb") as file:
            twice = file.read(_SEARCHED_BYTES).count(_FILE_PREFIX) > 1
    except OSError:
        return problem
    sentence = (
        "file-in-dataset: a whole DICOM file, preamble and all, was sent where only its "
        "dataset belongs; correct the sender"
    )
    return UnreadableInstance(sentence) if twice else problem


def _refuse_truncated(dataset: FileDataset, file: BinaryIO, size_bytes: int) -> None:
    """Refuse an image whose file ends before its pixels do; pydicom itself reads on silently.

    What has no pixels by its class (MR Spectroscopy, Raw Data, a report), and a private class without any, is
    whole without them.
    """
    if read_text(getattr(dataset, "file_meta", Dataset()), "TransferSyntaxUID") == _DEFLATED:
        return
    study, remaining = read_uid(dataset, "StudyInstanceUID"), size_bytes - file.tell()
    if remaining <= 0:
        if is_image(read_uid(dataset, "SOPClassUID")):
            raise UnreadableInstance("truncated: the file ends before the pixel data", StudyInstanceUID=study)
        return
    little, implicit = dataset.original_encoding[1], dataset.original_encoding[0]
    head = file.read(12)
    order: Literal["little", "big"] = "little" if little else "big"
    if int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order) not in _PIXEL_TAGS:
        return
    length = int.from_bytes(head[4:8] if implicit else head[8:12], order)
    if length != _UNDEFINED_LENGTH and length > remaining - (8 if implicit else 12):
        raise UnreadableInstance(
            "truncated: the pixel data are shorter than the header says", StudyInstanceUID=study
        )


def _describe(dataset: Dataset) -> InstanceHeader:
    dataset = fill_from_converted(dataset)
    facts = read_frames(dataset)
    return InstanceHeader(
        SOPInstanceUID=read_uid(dataset, "SOPInstanceUID"),
        SOPClassUID=read_uid(dataset, "SOPClassUID"),
        StudyInstanceUID=read_uid(dataset, "StudyInstanceUID"),
        SeriesInstanceUID=read_uid(dataset, "SeriesInstanceUID"),
        Modality=read_text(dataset, "Modality").upper(),
        FrameOfReferenceUID=read_uid(dataset, "FrameOfReferenceUID"),
        Rows=read_integer(dataset, "Rows") or 0,
        Columns=read_integer(dataset, "Columns") or 0,
        NumberOfFrames=read_integer(dataset, "NumberOfFrames") or 1,
        InstanceNumber=read_integer(dataset, "InstanceNumber"),
        AcquisitionNumber=read_integer(dataset, "AcquisitionNumber"),
        TemporalPositionIdentifier=read_integer(dataset, "TemporalPositionIdentifier"),
        SeriesNumber=read_integer(dataset, "SeriesNumber"),
        MagneticFieldStrength=read_number(dataset, "MagneticFieldStrength"),
        ImagesInAcquisition=read_integer(dataset, "ImagesInAcquisition"),
        NumberOfSeriesRelatedInstances=read_integer(dataset, "NumberOfSeriesRelatedInstances"),
        NumberOfTemporalPositions=read_integer(dataset, "NumberOfTemporalPositions"),
        ContrastBolusAgent=read_agent_attribute(dataset) == "given",
        PhotometricInterpretation=read_text(dataset, "PhotometricInterpretation").upper(),
        LossyImageCompression=read_text(dataset, "LossyImageCompression"),
        SequenceName=read_text(dataset, "SequenceName") or read_text(dataset, "PulseSequenceName"),
        MRAcquisitionType=read_text(dataset, "MRAcquisitionType").upper(),
        SeriesDescription=read_text(dataset, "SeriesDescription"),
        ProtocolName=read_text(dataset, "ProtocolName"),
        BodyPartExamined=(read_text(dataset, "BodyPartExamined") or facts.anatomy).upper(),
        ScanningSequence=_codes(dataset, "ScanningSequence"),
        SequenceVariant=_codes(dataset, "SequenceVariant"),
        ImageType=_codes(dataset, "ImageType") or facts.FrameType,
        **_from_frames(facts),
        extra=_extra(dataset, facts),
        identity_mark=mark_identity(dataset),
    )


def _from_frames(facts: FrameFacts) -> dict[str, Any]:
    return {
        "PixelSpacing": facts.PixelSpacing,
        "SliceThickness": facts.SliceThickness,
        "SpacingBetweenSlices": facts.SpacingBetweenSlices,
        "orientations": facts.orientations,
        "positions": facts.positions,
        "EchoTime": facts.EchoTime,
        "RepetitionTime": facts.RepetitionTime,
        "InversionTime": facts.InversionTime,
        "FlipAngle": facts.FlipAngle,
        "AcquisitionContrast": facts.AcquisitionContrast,
    }


def _codes(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(text.upper() for text in read_texts(dataset, keyword))


def _extra(dataset: Dataset, facts: FrameFacts) -> Mapping[str, Any]:
    """Return what only some scanners say; JSON types, absent keys left out."""
    header_values: dict[str, Any] = {
        **read_sequence_elements(dataset),
        "AcquisitionDateTime": _acquisition_time(dataset),
        "EchoTrainLength": read_number(dataset, "EchoTrainLength"),
        "ScanOptions": list(_codes(dataset, "ScanOptions")),
        "AngioFlag": read_text(dataset, "AngioFlag").upper(),
        "DiffusionBValue": read_number(dataset, "DiffusionBValue"),
        "EchoPulseSequence": read_text(dataset, "EchoPulseSequence").upper(),
        "EchoPlanarPulseSequence": read_text(dataset, "EchoPlanarPulseSequence").upper(),
        "TimeOfFlightContrast": read_text(dataset, "TimeOfFlightContrast").upper(),
        "ComplexImageComponent": read_text(dataset, "ComplexImageComponent").upper(),
        "FrameTypes": list(facts.frame_types),
        "EchoTimes": list(facts.echo_times),
        "TemporalPositionIndices": list(facts.temporal_indices),
        "FrameKinds": _frame_kinds(dataset, facts),
        "Concatenation": _concatenation(dataset),
        "SlicesAnnounced": _announced(dataset),
        "LocationsAnnounced": _first_count(dataset, _LOCATION_COUNTS),
        "SamplesPerPixel": read_integer(dataset, "SamplesPerPixel"),
        "PixelSpacings": len(set(facts.pixel_spacings)) if len(set(facts.pixel_spacings)) > 1 else None,
    }
    return {key: value for key, value in header_values.items() if value not in (None, "", [])}


def _frame_kinds(dataset: Dataset, facts: FrameFacts) -> list[list[Any]] | None:
    """Return what each frame says of itself, where frames differ.

    They may differ from those of another instance as well.
    """
    may_differ = len(set(facts.frame_kinds)) > 1 or bool(read_uid(dataset, "ConcatenationUID"))
    return [list(kind) for kind in facts.frame_kinds] if may_differ else None


def _concatenation(dataset: Dataset) -> list[Any] | None:
    """Return Concatenation UID, In-concatenation Number and In-concatenation Total Number.

    Of a part of a multi-frame image that was cut into several instances (PS3.3 C.7.6.16.2.2.4); a number that
    is absent is None.
    """
    uid = read_uid(dataset, "ConcatenationUID")
    numbers = ("InConcatenationNumber", "InConcatenationTotalNumber")
    return [uid, *(read_integer(dataset, keyword) for keyword in numbers)] if uid else None


def _acquisition_time(dataset: Dataset) -> str:
    """Return YYYYMMDDHHMMSS.f of the acquisition, as far as it is known; such texts sort by time."""
    date_time = read_text(dataset, "AcquisitionDateTime")
    return date_time or read_text(dataset, "AcquisitionDate") + read_text(dataset, "AcquisitionTime")


def _announced(dataset: Dataset) -> int | None:
    """Return the vendor's own count of the slices or images of a series."""
    return _first_count(dataset, _SERIES_COUNTS)


def _first_count(dataset: Dataset, elements: Sequence[tuple[int, str, int]]) -> int | None:
    """Return the first private element that holds a positive whole number: group, creator, element."""
    for group, creator, element in elements:
        number = read_private_number(dataset, group, creator, element)
        if number is not None and number > 0 and number == int(number):
            return int(number)
    return None
