"""Source headers, repaired: what highdicom may be given.

Scanners and archives write headers that highdicom rejects. Each source instance is copied into a new header
that holds only what a result needs; raw headers are never handed on. Nothing of the patient's or the study's
identity is invented or altered: a value is kept, or left empty where it is not a value of its element
(Patient's Sex "U", a date that is none).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom import config
from pydicom.charset import encode_string, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import DSfloat, PersonName, format_number_as_ds, validate_value

from dicomnode.errors import ResultRejected, StudyRefused
from dicomnode.records import Finding, SourceSeries
from dicomnode.spool.opening import open_instance
from dicomnode.uids import is_uid
from pipeline.records import Volume

# Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): empty where the source has none.
_REQUIRED_IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
)
_OPTIONAL_IDENTITY = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "TimezoneOffsetFromUTC"),
)
_VERBATIM = (
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "IssuerOfPatientID",
)
# Stands where bytes are no text of the source's character set.
_UNDECODED = "\ufffd"
_IMAGE = (
    *(
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "Modality",
    ),
    *(
        "Manufacturer",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "InstitutionName",
        "StationName",
    ),
    *("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "PositionReferenceIndicator"),
    *("Rows", "Columns", "NumberOfFrames", "InstanceNumber"),
)
_SAME_DIRECTION = 1e-6
_PATIENT_SEX = ("M", "F", "O")
_LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
}


def read_header(path: Path) -> Dataset:
    """Read one stored instance without its pixels, text decoded.

    Raises
    ------
    StudyRefused
        The file cannot be read as DICOM.
    """
    try:
        # An unknown character set is only warned about; the text is then taken as Latin-1.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_instance(path) as file:
                dataset = pydicom.dcmread(file, stop_before_pixels=True)
            for keyword in (*_REQUIRED_IDENTITY, *_OPTIONAL_IDENTITY, *_IMAGE):
                dataset.get(keyword)
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError) as problem:
        raise StudyRefused(
            "A source image could not be read again; send the study again.", code="source-unreadable"
        ) from problem
    return dataset


_FUNCTIONAL_GROUPS = frozenset({"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"})


def repair_identity(source: Dataset) -> Dataset:
    """Return the patient's and study's attributes, each a legal value of its element.

    The second value is the character set to write them in.

    Identifiers and names are carried letter by letter, with every value that a backslash makes of them; what
    cannot be, stays empty.
    """
    identity = Dataset()
    for keyword in (*_REQUIRED_IDENTITY, *_OPTIONAL_IDENTITY):
        texts = _carried_texts(source, keyword)
        if texts or keyword in _REQUIRED_IDENTITY:
            _set(identity, keyword, list(texts) if len(texts) > 1 else next(iter(texts), ""))
    if identity.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in identity:
        # Type 1C: one of method and method codes must be there when the identity was removed.
        if "DeidentificationMethodCodeSequence" in source:
            identity.DeidentificationMethodCodeSequence = copy.deepcopy(
                source.DeidentificationMethodCodeSequence
            )
        else:
            del identity.PatientIdentityRemoved
    identity.SpecificCharacterSet = choose_character_set(source, identity)
    return identity


def find_lost_identity(source: Dataset) -> tuple[Finding, ...]:
    """Return one finding for each identifier or name that the source has and the results cannot carry."""
    return tuple(
        Finding(
            "identity-left-empty",
            "warning",
            f"{keyword} is empty in the results: its text cannot be decoded; correct the images.",
        )
        for keyword in _VERBATIM
        if any(_texts(source, keyword)) and not _carried_texts(source, keyword)
    )


def _carried_texts(source: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as a result may have them.

    There are none where the source's are no values of the element.
    """
    texts = _texts(source, keyword)
    if not any(texts) or any(_UNDECODED in text for text in texts):
        return ()
    if keyword == "PatientSex":
        texts = tuple(text.upper() for text in texts)
        return texts if len(texts) == 1 and texts[0] in _PATIENT_SEX else ()
    if keyword in _VERBATIM:
        return texts
    multi_valued = keyword == "DeidentificationMethod"
    return (
        texts if all(_is_legal(keyword, text) for text in texts) and (multi_valued or len(texts) == 1) else ()
    )


def choose_character_set(source: Dataset, identity: Dataset) -> str:
    """Return the source's character set where it carries the text, else UTF-8 (ISO_IR 192).

    The source's is kept where it is UTF-8 or a single table of one byte a letter.

    Old archives may not read UTF-8, so Latin-1 stays Latin-1; code extensions (ISO 2022) become UTF-8. GBK is
    called by the name of its superset, GB18030, in which the bytes are the same: more readers know that term
    (dciodvfy of 2022 does not know GBK).
    """
    source_value = source.get("SpecificCharacterSet") or "ISO_IR 100"
    source_value = "GB18030" if source_value == "GBK" else source_value
    if (
        not isinstance(source_value, str)
        or source_value not in python_encoding
        or source_value.startswith("ISO 2022")
        or source_value == "ISO_IR 6"
    ):
        source_value = "ISO_IR 100" if source_value == "ISO_IR 6" else "ISO_IR 192"
    texts = [
        text for keyword in (*_REQUIRED_IDENTITY, *_OPTIONAL_IDENTITY) for text in _texts(identity, keyword)
    ]
    if not source.get("SpecificCharacterSet") and not all(text.isascii() for text in texts):
        return "ISO_IR 192"
    try:
        for text in texts:
            if (
                encode_string(text, [python_encoding[source_value]]).decode(python_encoding[source_value])
                != text
            ):
                return "ISO_IR 192"
    except (UnicodeError, LookupError):
        return "ISO_IR 192"
    return source_value


def read_source(source: SourceSeries, volume: Volume | None = None) -> list[Dataset]:
    """Return the repaired headers of a series in the order of its frames.

    There is one header per slice, or one multi-frame header.

    Where the slices are frames of several multi-frame instances (a concatenation), each slice gets a header
    of its own.

    Parameters
    ----------
    volume
        The volume that was made of it: settles spacing where the header does not.

    Raises
    ------
    StudyRefused
        The headers cannot carry a segmentation: no frame of reference, or slices that are no frames (a
        mosaic).
    """
    paths = list(dict.fromkeys(frame.path for frame in source.frames))
    raw = [read_header(path) for path in paths]
    if len(raw) > 1 and any("PerFrameFunctionalGroupsSequence" in header for header in raw):
        by_path = dict(zip(paths, raw, strict=True))
        paths = [frame.path for frame in source.frames]
        raw = [_take_frame(by_path[frame.path], frame.frame_number) for frame in source.frames]
    if len(raw) != len(source.frames) and not (len(raw) == 1 and "NumberOfFrames" in raw[0]):
        raise StudyRefused(
            (
                "The slices of the reference series are not frames of its images (a mosaic?); send "
                "the series as one image per slice."
            ),
            code="slices-not-frames",
        )
    identity = repair_identity(raw[0])
    headers = [_repair_image(header, identity) for header in raw]
    for header, original, path in zip(headers, raw, paths, strict=True):
        _repair_lossy(header, original, path)
    for header in headers:
        if not header.get("FrameOfReferenceUID"):
            raise StudyRefused(
                "The images have no Frame of Reference UID, so a segmentation cannot be placed on them; "
                "export them again without removing geometry (de-identification often does).",
                code="frame-of-reference-missing",
            )
    _repair_geometry(headers, raw, volume)
    return headers


def _take_frame(header: Dataset, frame_number: int) -> Dataset:
    """Return a multi-frame header with the geometry of one frame at the top level.

    As a single-frame image has it.
    """
    if "PerFrameFunctionalGroupsSequence" not in header:
        return header
    copied = Dataset()
    copied.file_meta = header.file_meta
    copied.update({element.tag: element for element in header if element.keyword not in _FUNCTIONAL_GROUPS})
    frame = header.PerFrameFunctionalGroupsSequence[frame_number - 1]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
        copied.update(_macro(frame, shared, keyword))
    return copied


def carry_identity(dataset: Dataset, identity: Dataset) -> None:
    """Put the source's patient and study into a finished object, letter by letter.

    Highdicom takes no value with a backslash.
    """
    for element in identity:
        dataset[element.tag] = copy.deepcopy(element)


def _single_values(identity: Dataset) -> Dataset:
    """Return an identity that highdicom takes.

    An element with several values stays empty until the object is finished.
    """
    plain = copy.deepcopy(identity)
    for element in plain:
        if element.VM > 1:
            element.value = ""
    return plain


def copy_identity(header: Dataset) -> Dataset:
    """Return the patient's and study's attributes of a repaired header.

    The second value is the character set that they are written in.
    """
    identity = Dataset()
    for keyword in (
        *_REQUIRED_IDENTITY,
        *_OPTIONAL_IDENTITY,
        "DeidentificationMethodCodeSequence",
        "StudyInstanceUID",
        "SpecificCharacterSet",
    ):
        if keyword in header:
            identity.add(copy.deepcopy(header[keyword]))
    return identity


def repair_template(raw: Dataset) -> Dataset:
    """Return a header for a report that needs no geometry: identity, and which instance it is."""
    return _repair_image(raw, repair_identity(raw))


def _repair_image(raw: Dataset, identity: Dataset) -> Dataset:
    header = Dataset()
    header.file_meta = raw.file_meta
    header.update(_single_values(identity))
    for keyword in _IMAGE:
        value = raw.get(keyword)
        if value is None or value == "":
            continue
        values = list(value) if isinstance(value, MultiValue) else [value]
        if all(isinstance(item, int) or _is_legal(keyword, str(item)) for item in values):
            _set(header, keyword, value if isinstance(value, int) else [str(item) for item in values])
    return header


def _repair_lossy(header: Dataset, raw: Dataset, path: Path) -> None:
    """Carry on that the images were compressed with loss.

    Ratio and method are required then (PS3.3 C.8.20.2).
    """
    syntax = UID(raw.file_meta.get("TransferSyntaxUID", ""))
    if raw.get("LossyImageCompression") != "01" and syntax not in {
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.51",
    }:
        return
    pixel_bytes = (
        int(raw.Rows)
        * int(raw.Columns)
        * int(raw.get("NumberOfFrames") or 1)
        * int(raw.get("BitsAllocated") or 16)
        // 8
    )
    estimated = format_number_as_ds(max(1.0, round(pixel_bytes / max(path.stat().st_size, 1), 2)))
    header.LossyImageCompression = "01"
    header.LossyImageCompressionRatio = raw.get("LossyImageCompressionRatio") or estimated
    header.LossyImageCompressionMethod = raw.get("LossyImageCompressionMethod") or _LOSSY_METHODS.get(
        syntax, "ISO_10918_1"
    )


def _repair_geometry(headers: Sequence[Dataset], raw: Sequence[Dataset], volume: Volume | None) -> None:
    """Give every slice the same orientation, and spacings that are there; positions stay the source's."""
    spacing = None if volume is None else _slice_spacing(volume)
    orientation = _orientation(raw[0], volume)
    for header, source in zip(headers, raw, strict=True):
        if "PerFrameFunctionalGroupsSequence" in source:
            _repair_multiframe(header, source, spacing, orientation)
            continue
        try:
            header.ImageOrientationPatient = _decimals(orientation or raw[0].ImageOrientationPatient)
            header.ImagePositionPatient = _decimals(source.ImagePositionPatient)
            header.PixelSpacing = _decimals(raw[0].PixelSpacing)
        except AttributeError as missing:
            raise ResultRejected(f"a source image lost its geometry: {missing}") from missing
        thickness = source.get("SliceThickness") or spacing
        header.SliceThickness = None if thickness is None else _decimals([thickness])[0]
        if spacing is not None:
            header.SpacingBetweenSlices = _decimals([spacing])[0]


def _repair_multiframe(
    header: Dataset, source: Dataset, spacing: float | None, orientation: Sequence[float]
) -> None:
    """Lay the geometry out as highdicom reads it.

    Spacing and orientation shared (Siemens repeats them in every frame), position per frame.
    """
    source_value = source.get("SharedFunctionalGroupsSequence") or [Dataset()]
    frames = source.PerFrameFunctionalGroupsSequence
    measures = copy.deepcopy(_macro(frames[0], source_value[0], "PixelMeasuresSequence"))
    if not measures.get("SliceThickness") and spacing is not None:
        measures.SliceThickness = _decimals([spacing])[0]
    if spacing is not None:
        measures.SpacingBetweenSlices = _decimals([spacing])[0]
    plane = Dataset()
    plane.ImageOrientationPatient = _decimals(
        orientation or _macro(frames[0], source_value[0], "PlaneOrientationSequence").ImageOrientationPatient
    )
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = [
        _position(_macro(frame, source_value[0], "PlanePositionSequence")) for frame in frames
    ]


def _macro(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    for group in (frame, shared):
        if group.get(keyword):
            macro: Dataset = group[keyword].value[0]
            return macro
    raise ResultRejected(f"a frame of the source image has no {keyword}")


def _position(source: Dataset) -> Dataset:
    position, groups = Dataset(), Dataset()
    position.ImagePositionPatient = _decimals(source.ImagePositionPatient)
    groups.PlanePositionSequence = [position]
    return groups


def first_frame_header(header: Dataset) -> Dataset:
    """Return a header whose geometry stands at the top level, as the image library reads it.

    That of the first frame.
    """
    if "PerFrameFunctionalGroupsSequence" not in header:
        return header
    flat = Dataset()
    for keyword in _IMAGE:
        if keyword in header:
            flat.add(header[keyword])
    for group in (
        *header.get("SharedFunctionalGroupsSequence", []),
        header.PerFrameFunctionalGroupsSequence[0],
    ):
        for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
            if keyword in group:
                flat.update(group[keyword].value[0])
    return flat


def _orientation(first: Dataset, volume: Volume | None) -> list[float]:
    """Return the volume's direction cosines where they differ from the header's, else nothing.

    They differ where jitter was averaged.
    """
    if volume is None:
        return []
    directions = volume.affine[:3, [2, 1]] / np.linalg.norm(volume.affine[:3, [2, 1]], axis=0)
    ours = directions.T.ravel()
    source_value = first.get("ImageOrientationPatient")
    if "PerFrameFunctionalGroupsSequence" in first:
        shared = first.get("SharedFunctionalGroupsSequence") or [Dataset()]
        source_value = _macro(
            first.PerFrameFunctionalGroupsSequence[0], shared[0], "PlaneOrientationSequence"
        ).ImageOrientationPatient
    if (
        source_value
        and np.abs(np.array([float(value) for value in source_value]) - ours).max() < _SAME_DIRECTION
    ):
        return []
    return [float(value) for value in ours]


def _slice_spacing(volume: Volume) -> float:
    normal = np.cross(volume.affine[:3, 1], volume.affine[:3, 2])
    return float(abs(volume.affine[:3, 0] @ normal) / np.linalg.norm(normal))


def _decimals(values: Sequence[object]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]  # type: ignore[arg-type]


def _texts(source: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as decoded text.

    A text with a backslash is several values (PS3.5 6.4).
    """
    value = source.get(keyword)
    values = value if isinstance(value, MultiValue) else [value]
    texts = tuple(_trim(item) for item in values if item is not None)
    return texts if any(texts) else ()


def _trim(value: object) -> str:
    text = str(value)
    if isinstance(value, PersonName):
        # A name of separators alone is none.
        return text.rstrip(" ^=") if set(text) <= set(" ^=") else text
    return text.strip()


def _is_legal(keyword: str, value: str) -> bool:
    if not value:
        return True
    if dictionary_VR(keyword) == "UI":
        return is_uid(value)
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return True


def _set(dataset: Dataset, keyword: str, value: object) -> None:
    # Identity that is too long for its element is kept as it is: a shortened Patient ID would be another
    # patient's.
    dataset.add(DataElement(Tag(keyword), dictionary_VR(keyword), value, validation_mode=config.IGNORE))
