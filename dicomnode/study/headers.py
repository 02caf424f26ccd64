"""What one stored instance says about itself, read once, without its pixels; tolerant of what real headers get wrong.

Nothing of the patient is kept: `InstanceHeader` has no field for it, and this module copies named elements only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from dicomnode.errors import UnreadableInstance
from dicomnode.records import InstanceHeader
from dicomnode.study.bombs import CountedFile, refuse_bombs
from dicomnode.study.elements import read_integer, read_number, read_private_number, read_text, read_texts
from dicomnode.study.frames import FrameFacts, read_frames
from dicomnode.study.sequence_elements import read_agent_attribute, read_sequence_elements

_CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
_ENHANCED_MR = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.3", "1.2.840.10008.5.1.4.1.1.4.4")

MR_STORAGE = frozenset({_CLASSIC_MR, *_ENHANCED_MR})
"""MR, Enhanced MR, Enhanced MR Color and Legacy Converted Enhanced MR Image Storage (PS3.4 B.5)."""

# Storage classes that come with studies but do not ask for an answer: our own SEG and SR coming back, other reports,
# presentation states, key objects, registrations, plans, waveforms, documents (PS3.4 B.5).
_UNANSWERED = (
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.9.",
    "1.2.840.10008.5.1.4.1.1.104.",
    "1.2.840.10008.5.1.4.1.1.481.",
    "1.2.840.10008.5.1.4.1.1.7.",
    "1.2.840.10008.5.1.4.34.",
    "1.2.840.10008.5.1.4.43.",
)
# Secondary Capture, Parametric Map, MR Spectroscopy: no image that a scanner sends for reading as a volume.
_UNANSWERED_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.4.2"})
_UID_CHARACTERS = frozenset("0123456789.")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_IMAGE_ELEMENTS = ("Rows", "Columns", "BitsAllocated")


def is_answerable(header: InstanceHeader) -> bool:
    """Return whether a study with this instance waits for an answer: an image does, a report or a segmentation does not."""
    return _asks_for_answer(header.SOPClassUID)


def _asks_for_answer(SOPClassUID: str) -> bool:
    return SOPClassUID not in _UNANSWERED_CLASSES and not SOPClassUID.startswith(_UNANSWERED)


def read_header(path: Path) -> InstanceHeader:
    """Read the header of a stored instance.

    Parameters
    ----------
    path
        A DICOM file; one without preamble and file meta information is read too.

    Raises
    ------
    UnreadableInstance
        "not-dicom", "truncated", "identity-missing", "too-..." or "unreadable", then a sentence. A truncated image still says which study it is of.
    """
    # pydicom warns about each odd value; what matters of it becomes a finding.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                refuse_bombs(file)
                dataset = _parse(file)
                _refuse_truncated(dataset, file, path.stat().st_size)
                return _describe(dataset)
        except UnreadableInstance:
            raise
        except Exception as problem:  # noqa: BLE001 - see below
            # Whatever bytes a peer sent, the node goes on: pydicom may fail in any way on garbage, also lazily, and nested too deep.
            raise UnreadableInstance(f"unreadable: the file cannot be read ({type(problem).__name__})") from None


def _parse(file: BinaryIO) -> FileDataset:
    try:
        dataset = pydicom.dcmread(cast("BinaryIO", CountedFile(file)), stop_before_pixels=True, force=True)
    except (InvalidDicomError, EOFError):
        raise UnreadableInstance("not-dicom: the file is not a DICOM instance") from None
    identity = ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID")
    missing = [keyword for keyword in identity if not _is_uid(read_text(dataset, keyword))]
    if len(missing) == len(identity):
        raise UnreadableInstance("not-dicom: the file has none of the identifiers of a DICOM instance")
    if missing:
        raise UnreadableInstance(f"identity-missing: {', '.join(missing)} is absent or not a UID")
    return dataset


def _refuse_truncated(dataset: FileDataset, file: BinaryIO, size_bytes: int) -> None:
    """Refuse an image whose file ends before its pixels do; pydicom itself reads on silently."""
    syntax = read_text(getattr(dataset, "file_meta", Dataset()), "TransferSyntaxUID")
    image = read_text(dataset, "SOPClassUID") in MR_STORAGE or any(Tag(keyword) in dataset for keyword in _IMAGE_ELEMENTS)
    if syntax == _DEFLATED or not image:
        return
    study = read_text(dataset, "StudyInstanceUID") if _asks_for_answer(read_text(dataset, "SOPClassUID")) else ""
    remaining = size_bytes - file.tell()
    if remaining <= 0:
        raise UnreadableInstance("truncated: the file ends before the pixel data", StudyInstanceUID=study)
    little, implicit = dataset.original_encoding[1], dataset.original_encoding[0]
    head = file.read(12)
    length = int.from_bytes(head[4:8] if implicit else head[8:12], "little" if little else "big")
    if length != _UNDEFINED_LENGTH and length > remaining - (8 if implicit else 12):
        raise UnreadableInstance("truncated: the pixel data are shorter than the header says", StudyInstanceUID=study)


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= 64 and set(text) <= _UID_CHARACTERS and not text.endswith(".")


def _describe(dataset: Dataset) -> InstanceHeader:
    facts = read_frames(dataset)
    return InstanceHeader(
        SOPInstanceUID=read_text(dataset, "SOPInstanceUID"),
        SOPClassUID=read_text(dataset, "SOPClassUID"),
        StudyInstanceUID=read_text(dataset, "StudyInstanceUID"),
        SeriesInstanceUID=read_text(dataset, "SeriesInstanceUID"),
        Modality=read_text(dataset, "Modality").upper(),
        FrameOfReferenceUID=read_text(dataset, "FrameOfReferenceUID"),
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
    seen: dict[str, Any] = {
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
        "SlicesAnnounced": _announced(dataset),
        "SamplesPerPixel": read_integer(dataset, "SamplesPerPixel"),
        "PixelSpacings": len(set(facts.pixel_spacings)) if len(set(facts.pixel_spacings)) > 1 else None,
    }
    return {key: value for key, value in seen.items() if value not in (None, "", [])}


def _acquisition_time(dataset: Dataset) -> str:
    """Return YYYYMMDDHHMMSS.f of the acquisition, as far as it is known; such texts sort by time."""
    whole = read_text(dataset, "AcquisitionDateTime")
    return whole or read_text(dataset, "AcquisitionDate") + read_text(dataset, "AcquisitionTime")


def _announced(dataset: Dataset) -> int | None:
    """Return the vendor's own count: Philips "Number of Slices MR", GE "Images in Series"."""
    for group, creator, element in ((0x2001, "Philips Imaging DD 001", 0x18), (0x0025, "GEMS_SERS_01", 0x07)):
        number = read_private_number(dataset, group, creator, element)
        if number is not None and number > 0:
            return int(number)
    return None
