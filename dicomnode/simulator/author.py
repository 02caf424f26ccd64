"""The scanner of the simulator.

Voxels in, classic single-frame MR instances out, with headers as scanners write them.

Rules for this file:
1. Everything is derived from the arguments: the same call gives the same bytes. No clock, no random numbers.
2. What it writes is obviously synthetic (Patient's Name, ID, Manufacturer) and valid; a test that needs a
   fault passes `overrides` or edits the returned datasets.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from dicomnode.records import Role

Array = npt.NDArray[Any]

_CONTRAST: Mapping[Role, Mapping[str, Any]] = {
    "t1": {
        "SeriesDescription": "T1 MPRAGE",
        "ScanningSequence": ["GR", "IR"],
        "SequenceVariant": ["SK", "SP", "MP"],
        "MRAcquisitionType": "3D",
        "SequenceName": "*tfl3d1",
        "RepetitionTime": "2300",
        "EchoTime": "3",
        "InversionTime": "900",
        "EchoTrainLength": "1",
        "FlipAngle": "9",
        "NumberOfAverages": "1",
    },
    "flair": {
        "SeriesDescription": "T2 FLAIR",
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": ["SK", "SP"],
        "MRAcquisitionType": "2D",
        "SequenceName": "*tir2d1",
        "RepetitionTime": "9000",
        "EchoTime": "120",
        "InversionTime": "2500",
        "EchoTrainLength": "19",
        "FlipAngle": "150",
        "NumberOfAverages": "1",
    },
}

# Direction cosines of increasing column index and of increasing row index (PS3.3 C.7.6.2.1.1), as radiology
# displays each plane.
_PLANES: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
}


@dataclass(frozen=True)
class Patient:
    """Who lies in the simulated scanner."""

    PatientName: str = "SYNTHETIC^STROKE"
    PatientID: str = "SIM-0001"
    PatientBirthDate: str = "19500101"
    PatientSex: str = "O"
    PatientAge: str = "076Y"


def derive_uid(*uid_parts: object) -> str:
    """Return the UID of these parts.

    The same parts give the same UID (2.25 and a name-based UUID, PS3.5 B.2).
    """
    text = "\x1f".join(["dicomnode-simulator", *map(str, uid_parts)])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def stack_affine(
    plane: str,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    center_mm: Sequence[float] = (0.0, 0.0, 0.0),
    tilt_deg: float = 0.0,
    reverse: bool = False,
) -> npt.NDArray[np.float64]:
    """Return the affine, index (slice, row, column) to LPS mm, of a stack of slices.

    Parameters
    ----------
    plane
        "axial", "sagittal" or "coronal", before the tilt.
    shape, spacing_mm
        (slice, row, column).
    center_mm
        LPS position of the middle of the stack.
    tilt_deg
        Rotation of the whole stack about the direction of its rows: an oblique acquisition.
    reverse
        Slices run against the cross product of row and column direction: a left-handed stack.
    """
    along_row, along_column = (np.asarray(direction, dtype=float) for direction in _PLANES[plane])
    normal = np.cross(along_row, along_column)
    angle = np.deg2rad(tilt_deg)
    down = np.cos(angle) * along_column + np.sin(angle) * normal
    through = np.cross(along_row, down) * (-1 if reverse else 1)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([through, down, along_row], axis=1) * np.asarray(spacing_mm, dtype=float)
    affine[:3, 3] = np.asarray(center_mm) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def author_series(
    array: Array,
    affine: npt.NDArray[np.float64],
    *,
    role: Role,
    study_uid: str,
    frame_of_reference_uid: str,
    patient: Patient | None = None,
    series_number: int = 1,
    seed: object = 0,
    slice_thickness_mm: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Dataset]:
    """Return one MR Image Storage instance per slice (PS3.3 A.4), in the order of the array.

    Each has its file meta information.

    Parameters
    ----------
    array
        (slice, row, column). Integers are stored as they are; other values are scaled so that the largest
        becomes 4000.
    affine
        Index (slice, row, column) to LPS mm; rows and columns must be perpendicular, the slices may be
        sheared.
    role
        "t1": a 3D inversion-prepared gradient echo (MPRAGE); "flair": a 2D inversion-recovery turbo spin
        echo.
    seed
        Tells two series of one study and number apart: it goes into their UIDs.
    slice_thickness_mm
        When it differs from the spacing of the slices (gaps or overlap).
    overrides
        Attribute keyword -> value for every instance; None removes the attribute.

    Raises
    ------
    ValueError
        The array is not 3D, has negative or too large values, or rows and columns are not perpendicular.
    """
    stored = stored_pixels(array)
    series = describe_series(
        role, study_uid, frame_of_reference_uid, patient or Patient(), series_number, seed
    )
    add_pixel_description(series, stored)
    series.update(_plane_attributes(affine, slice_thickness_mm))
    series.SOPClassUID = MRImageStorage
    series.ImagesInAcquisition = str(len(stored))
    instances = [_instance(series, plane, index, affine, seed) for index, plane in enumerate(stored)]
    for instance in instances:
        apply_overrides(instance, overrides or {})
    return instances


def write_series(instances: Sequence[Dataset], folder: Path, prefix: str = "IM") -> list[Path]:
    """Write each instance as a DICOM file `<prefix>0001.dcm`, ... below `folder` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{number:04d}.dcm" for number in range(1, len(instances) + 1)]
    for instance, path in zip(instances, paths, strict=True):
        instance.save_as(path, enforce_file_format=True)
    return paths


def stored_pixels(array: Array) -> npt.NDArray[np.uint16]:
    """Return the values as they are stored; see `author_series`."""
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"a series needs a (slice, row, column) array, got shape {array.shape}")
    values = array
    if not np.issubdtype(array.dtype, np.integer):
        values = np.rint(array * (4000.0 / max(float(array.max()), 1e-9)))
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"stored values must lie in 0..65535, got {values.min()}..{values.max()}")
    return values.astype("<u2")


def describe_series(
    role: Role,
    study_uid: str,
    frame_of_reference_uid: str,
    patient: Patient,
    series_number: int,
    seed: object,
) -> Dataset:
    """Return what all instances of a series share, without geometry and pixels."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = "20260105"
    header.StudyTime = "090000"
    header.SeriesTime = header.AcquisitionTime = header.ContentTime = f"09{series_number % 60:02d}00"
    header.AccessionNumber = f"SIM{uuid.uuid5(uuid.NAMESPACE_OID, study_uid).int % 10**8:08d}"
    header.Modality = "MR"
    header.Manufacturer = "SYNTHETIC"
    header.ManufacturerModelName = "dicomnode scanner simulator"
    header.InstitutionName = "SYNTHETIC"
    header.DeviceSerialNumber = "0"
    header.SoftwareVersions = "1"
    header.ReferringPhysicianName = ""
    header.StudyDescription = "MR brain, synthetic"
    for keyword, value in vars(patient).items():
        setattr(header, keyword, value)
    header.PatientPosition = "HFS"
    header.BodyPartExamined = "BRAIN"
    header.StudyInstanceUID = study_uid
    header.SeriesInstanceUID = derive_uid(study_uid, "series", series_number, role, seed)
    header.StudyID = "1"
    header.SeriesNumber = str(series_number)
    header.AcquisitionNumber = "1"
    header.FrameOfReferenceUID = frame_of_reference_uid
    header.PositionReferenceIndicator = ""
    header.ScanOptions = ""
    header.MagneticFieldStrength = "3"
    header.ImagingFrequency = "123.2"
    header.ImagedNucleus = "1H"
    for keyword, value in _CONTRAST[role].items():
        setattr(header, keyword, value)
    header.ProtocolName = header.SeriesDescription
    return header


def add_pixel_description(header: Dataset, stored: npt.NDArray[np.uint16]) -> None:
    """Set the Image Pixel module (PS3.3 C.7.6.3) but for the pixels, and a window that shows the image."""
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = stored.shape[1:]
    header.BitsAllocated = 16
    header.BitsStored = 12 if stored.max() < 4096 else 16
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = 0
    width = max(1.0, float(np.percentile(stored, 99.5)))
    header.WindowCenter = f"{width / 2:.6g}"
    header.WindowWidth = f"{width:.6g}"


def file_meta(SOPClassUID: str, SOPInstanceUID: str) -> FileMetaDataset:
    """Return file meta information for an Explicit VR Little Endian instance (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def apply_overrides(instance: Dataset, overrides: Mapping[str, Any]) -> None:
    """Set each attribute, or remove it when the value is None."""
    for keyword, value in overrides.items():
        if value is None:
            if keyword in instance:
                delattr(instance, keyword)
        else:
            setattr(instance, keyword, value)


def orientation_cosines(affine: npt.NDArray[np.float64]) -> list[str]:
    """Return Image Orientation (Patient).

    The cosines of increasing column index, then of increasing row index.
    """
    along_row, along_column = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (2, 1))
    if abs(float(along_row @ along_column)) > 1e-4:
        raise ValueError("rows and columns must be perpendicular")
    return decimal_strings([*along_row, *along_column])


def decimal_strings(numbers: Iterable[float]) -> list[str]:
    """Return each number as a Decimal String of at most 16 characters (PS3.5 6.2)."""
    return [f"{number + 0.0:.9g}" if abs(number) >= 1e-9 else "0" for number in numbers]


def _plane_attributes(affine: npt.NDArray[np.float64], slice_thickness_mm: float | None) -> Dataset:
    """Return the Image Plane module (PS3.3 C.7.6.2) but for the position."""
    plane = Dataset()
    plane.ImageOrientationPatient = orientation_cosines(affine)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    plane.PixelSpacing = decimal_strings([spacing_mm[1], spacing_mm[2]])
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    between_mm = abs(float(affine[:3, 0] @ normal)) / float(np.linalg.norm(normal))
    plane.SpacingBetweenSlices = decimal_strings([between_mm])[0]
    plane.SliceThickness = decimal_strings(
        [between_mm if slice_thickness_mm is None else slice_thickness_mm]
    )[0]
    return plane


def _instance(
    series: Dataset, plane: npt.NDArray[np.uint16], index: int, affine: npt.NDArray[np.float64], seed: object
) -> Dataset:
    # A shallow copy would share its elements: an edit of one instance would show in all.
    instance = copy.deepcopy(series)
    instance.SOPInstanceUID = derive_uid(series.SeriesInstanceUID, "instance", index, seed)
    instance.InstanceNumber = str(index + 1)
    position_mm = affine[:3, 3] + index * affine[:3, 0]
    instance.ImagePositionPatient = decimal_strings(position_mm)
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    instance.SliceLocation = decimal_strings([float(position_mm @ normal) / float(np.linalg.norm(normal))])[0]
    instance.PixelData = plane.tobytes()
    instance.file_meta = file_meta(instance.SOPClassUID, instance.SOPInstanceUID)
    return instance
