"""Source headers, repaired: what highdicom may be given.

Scanners and archives write headers that highdicom rejects. Each source instance is copied into a new header
that holds only what a result needs; raw headers are never handed on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import format_number_as_ds

from dicomnode.errors import StudyRefused
from dicomnode.records import SourceSeries
from dicomnode.results.headers.elements import is_legal, set_element
from dicomnode.results.headers.geometry import repair_geometry, take_frame
from dicomnode.results.headers.identity import IDENTITY_KEYWORDS, repair_identity, single_values
from dicomnode.spool.opening import open_instance
from pipeline.records import Volume

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
                return _decode(pydicom.dcmread(file, stop_before_pixels=True))
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError) as problem:
        raise _unreadable() from problem


def _decode(dataset: Dataset) -> Dataset:
    """Return the dataset, its elements decoded that a result may carry."""
    for keyword in (*IDENTITY_KEYWORDS, *_IMAGE):
        dataset.get(keyword)
    return dataset


def take_header(path: Path, loaded_headers: Mapping[Path, Dataset] | None) -> Dataset:
    """Return the header of a stored instance, read here unless it was read before.

    Raises
    ------
    StudyRefused
        The file cannot be read as DICOM.
    """
    if loaded_headers is None or path not in loaded_headers:
        return read_header(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(loaded_headers[path])
    except (ValueError, KeyError, EOFError) as problem:
        raise _unreadable() from problem


def _unreadable() -> StudyRefused:
    return StudyRefused(
        "A source image could not be read again; send the study again.", code="source-unreadable"
    )


def read_source(
    source: SourceSeries, volume: Volume | None = None, loaded_headers: Mapping[Path, Dataset] | None = None
) -> list[Dataset]:
    """Return the repaired headers of a series in the order of its frames.

    There is one header per slice, or one multi-frame header.

    Where the slices are frames of several multi-frame instances (a concatenation), each slice gets a header
    of its own.

    Parameters
    ----------
    volume
        The volume that was made of it: settles spacing where the header does not.
    loaded_headers
        Headers that were read before, by file; the others are read.

    Raises
    ------
    StudyRefused
        The headers cannot carry a segmentation: no frame of reference, or slices that are no frames (a
        mosaic).
    """
    paths = list(dict.fromkeys(frame.path for frame in source.frames))
    raw = [take_header(path, loaded_headers) for path in paths]
    if len(raw) > 1 and any("PerFrameFunctionalGroupsSequence" in header for header in raw):
        by_path = dict(zip(paths, raw, strict=True))
        paths = [frame.path for frame in source.frames]
        raw = [take_frame(by_path[frame.path], frame.frame_number) for frame in source.frames]
    if len(raw) != len(source.frames) and not (len(raw) == 1 and "NumberOfFrames" in raw[0]):
        raise StudyRefused(
            (
                "The slices of the reference series are not frames of its images (a mosaic?); send "
                "the series as one image per slice."
            ),
            code="slices-not-frames",
        )
    # No element of a header is changed later on, so all of them may share these.
    identity = single_values(repair_identity(raw[0]))
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
    repair_geometry(headers, raw, volume)
    return headers


def repair_template(raw: Dataset) -> Dataset:
    """Return a header for a report that needs no geometry: identity, and which instance it is."""
    return _repair_image(raw, single_values(repair_identity(raw)))


def _repair_image(raw: Dataset, identity: Dataset) -> Dataset:
    header = Dataset()
    header.file_meta = raw.file_meta
    header.update(identity)
    for keyword in _IMAGE:
        value = raw.get(keyword)
        if value is None or value == "":
            continue
        values = list(value) if isinstance(value, MultiValue) else [value]
        if all(isinstance(item, int) or is_legal(keyword, str(item)) for item in values):
            set_element(header, keyword, value if isinstance(value, int) else [str(item) for item in values])
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
