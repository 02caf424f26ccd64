"""The smallest instances that travel: no study to speak of, but real files with pixels that tell them apart."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from dicomnode.simulator.author import derive_uid


def small_instance(
    number: int = 1,
    *,
    SOPClassUID: str = MRImageStorage,
    side: int = 16,
    fill: int | None = None,
    seed: str = "small",
) -> Dataset:
    """Return an instance whose pixels hold `fill` (its number by default); the same arguments give the same UID, whatever `fill` is."""
    instance = Dataset()
    instance.SOPClassUID = SOPClassUID
    instance.SOPInstanceUID = derive_uid(seed, number)
    instance.StudyInstanceUID = derive_uid(seed, "study")
    instance.SeriesInstanceUID = derive_uid(seed, "series")
    instance.Modality = "MR"
    instance.PatientName = "Secret^Name"
    instance.PatientID = "SECRET-ID"
    instance.InstanceNumber = number
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
    instance.Rows = instance.Columns = side
    instance.BitsAllocated, instance.BitsStored, instance.HighBit, instance.PixelRepresentation = (
        16,
        12,
        11,
        0,
    )
    value = (number if fill is None else fill) % 4096
    instance.PixelData = value.to_bytes(2, "little") * (side * side)
    instance.file_meta = FileMetaDataset()
    instance.file_meta.MediaStorageSOPClassUID = UID(SOPClassUID)
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return instance


def write_instances(
    folder: Path, count: int, *, first: int = 1, side: int = 16, seed: str = "small"
) -> list[Path]:
    """Write `count` small MR instances and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(first, first + count):
        path = folder / f"{number:05d}.dcm"
        small_instance(number, side=side, seed=seed).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
