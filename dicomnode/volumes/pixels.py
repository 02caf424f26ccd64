"""Decoding: the stored values of every slice of a stack, and in-memory instances that both converters read.

The copies carry native little endian pixels, one orientation and nothing of the patient; the files in the
spool are never changed.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from dicomnode.errors import StudyRefused
from dicomnode.records import InstanceHeader
from dicomnode.spool.opening import open_instance
from dicomnode.study.elements import read_items, read_number
from dicomnode.study.stacks import Slice, Stack
from dicomnode.volumes import extended_jpeg
from dicomnode.volumes.padding import background_of, find_padding
from pipeline.records import Array

extended_jpeg.register()

_FIRST_PIXELS = tag_for_keyword("FloatPixelData")
_RESCALE = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")

Headers = dict[Path, Dataset]
"""What stands before the pixels in each file."""


@dataclass(frozen=True, eq=False)
class DecodedSlice:
    """One slice as stored.

    (row, column) integers, the dataset that holds its modality transform, and which pixels are padding.

    `padding` is None where the instance declares no Pixel Padding Value.
    """

    source: Slice
    stored: Array
    transform: Dataset
    padding: npt.NDArray[np.bool_] | None = None

    def values(self) -> Array:
        """Return the modality values (rescale or LUT applied)."""
        values: Array = apply_modality_lut(self.stored, self.transform)
        return values


def decode_stack(stack: Stack, spool_root: Path, headers: Headers | None = None) -> tuple[DecodedSlice, ...]:
    """Decode every slice of a stack, each file once.

    Parameters
    ----------
    headers
        Takes up what stands before the pixels in each file.

    Raises
    ------
    StudyRefused
        "pixel-data-unreadable" or "pixel-format-not-supported".
    """
    by_path: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(stack.slices):
        by_path[item.instance.path].append(index)
    decoded: dict[int, DecodedSlice] = {}
    for path, indices in by_path.items():
        dataset, frames = _decode_file(spool_root / path)
        if headers is not None:
            headers[spool_root / path] = _header_of(dataset)
        for index in indices:
            item = stack.slices[index]
            if item.frame_number > len(frames):
                raise StudyRefused(
                    "An instance holds fewer frames than its header describes.", code="pixel-data-unreadable"
                )
            stored = frames[item.frame_number - 1]
            decoded[index] = DecodedSlice(
                item, stored, _transform(dataset, item.frame_number - 1), find_padding(stored, dataset)
            )
    return tuple(decoded[index] for index in range(len(stack.slices)))


def fill_padding(slices: Sequence[DecodedSlice]) -> tuple[DecodedSlice, ...]:
    """Return the slices with padding made background.

    No signal, or the lowest value of the stack where that is below zero.
    """
    padded = [item for item in slices if item.padding is not None and item.padding.any()]
    if not padded:
        return tuple(slices)
    images = (item.values() if item.padding is None else item.values()[~item.padding] for item in slices)
    lowest = min((float(image.min()) for image in images if image.size), default=0.0)
    return tuple(_filled(item, lowest) for item in slices)


def _filled(item: DecodedSlice, lowest: float) -> DecodedSlice:
    if item.padding is None or not item.padding.any():
        return item
    background = background_of(lowest, item.transform, item.stored[~item.padding])
    return replace(item, stored=np.where(item.padding, background, item.stored).astype(item.stored.dtype))


class ClassicCopy(Dataset):
    """An instance for the converters, which only read it: both get the pixels that were decoded once."""

    decoded: Array

    @property
    def pixel_array(self) -> Array:
        """The stored values (row, column), not to be written to."""
        pixels = self.decoded.view()
        pixels.flags.writeable = False
        return pixels

    def __deepcopy__(self, memo: dict[int, object] | None) -> ClassicCopy:
        """Return the instance itself: dicom2nifti copies each so that the first does not keep its pixels."""
        return self


def classic_copies(slices: Sequence[DecodedSlice], orientation: Sequence[float]) -> list[ClassicCopy]:
    """Return one MR Image Storage instance per slice, numbered in the order of the stack.

    All in the first one's series.

    dicom2nifti parts time points by the order of Instance Number; the stack is sorted already, so it is
    numbered anew.
    """
    first = slices[0].source.instance.header
    shared: dict[tuple[object, ...], Dataset] = {}
    copies = []
    for number, item in enumerate(slices, start=1):
        image_format = (item.stored.dtype, item.stored.shape)
        if image_format not in shared:
            shared[image_format] = _common_elements(item.stored, orientation, first)
        copies.append(_classic_copy(item, shared[image_format], number))
    return copies


def _common_elements(stored: Array, orientation: Sequence[float], header: InstanceHeader) -> Dataset:
    """Return what all copies have that are stored alike; they share these elements."""
    common = Dataset()
    common.SOPClassUID = MRImageStorage
    common.StudyInstanceUID = header.StudyInstanceUID
    common.SeriesInstanceUID = header.SeriesInstanceUID
    common.FrameOfReferenceUID = header.FrameOfReferenceUID
    common.Modality = "MR"
    # Assigned as numbers, so that no decimal string of 16 characters rounds them.
    common.ImageOrientationPatient = list(orientation)
    common.PixelSpacing = list(header.PixelSpacing)
    describe_format(common, stored)
    return common


def _classic_copy(item: DecodedSlice, common: Dataset, number: int) -> ClassicCopy:
    copy = ClassicCopy()
    copy.update({element.tag: element for element in item.transform})
    copy.update({element.tag: element for element in common})
    copy.SOPInstanceUID = f"2.25.{number}"
    copy.InstanceNumber = number
    copy.ImagePositionPatient = list(item.source.position)
    copy.decoded = add_pixels(copy, item.stored)
    copy.file_meta = native_meta(MRImageStorage, copy.SOPInstanceUID)
    return copy


def describe_format(copy: Dataset, stored: Array) -> None:
    """Set the Image Pixel module, but for the pixels, for values of (row, column) or (frame, row, column)."""
    bits = stored.dtype.itemsize * 8
    copy.SamplesPerPixel = 1
    copy.PhotometricInterpretation = "MONOCHROME2"
    copy.Rows, copy.Columns = stored.shape[-2:]
    copy.BitsAllocated = copy.BitsStored = bits
    copy.HighBit = bits - 1
    copy.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))


def add_pixels(copy: Dataset, stored: Array) -> Array:
    """Set the pixels, native little endian, and return them."""
    pixels = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("<"))
    copy.PixelData = pixels.tobytes()
    copy["PixelData"].VR = "OW"
    return pixels


def native_meta(SOPClassUID: str, SOPInstanceUID: str) -> FileMetaDataset:
    """Return file meta information of a native Explicit VR Little Endian instance."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _decode_file(path: Path) -> tuple[Dataset, Array]:
    """Return the dataset and its frames (frame, row, column)."""
    with warnings.catch_warnings():
        # Decoders warn about headers that contradict the codestream; what they decode is checked below.
        warnings.simplefilter("ignore")
        try:
            with open_instance(path) as file:
                dataset = pydicom.dcmread(file, force=True)
            frames = dataset.pixel_array
        except Exception as problem:  # noqa: BLE001 - five decoder libraries, each with exceptions of its own
            sentence = (
                f"The pixel data of an instance cannot be decoded ({type(problem).__name__}); send "
                "the series again."
            )
            raise StudyRefused(sentence, code="pixel-data-unreadable") from None
    frames = frames[None] if frames.ndim == 2 else frames
    expected = (dataset.get("Rows"), dataset.get("Columns"))
    if frames.ndim != 3 or frames.shape[1:] != expected or not np.issubdtype(frames.dtype, np.integer):
        sentence = "The pixel data are not one grey integer value a pixel, or do not fit Rows and Columns."
        raise StudyRefused(sentence, code="pixel-format-not-supported")
    return dataset, _sign_extended(frames, dataset)


def _header_of(dataset: Dataset) -> Dataset:
    """Return what stands before the pixels, with the File Meta Information."""
    header = dataset[:_FIRST_PIXELS]
    header.file_meta = dataset.file_meta
    return header


def _sign_extended(frames: Array, dataset: Dataset) -> Array:
    """Repeat the sign bit of values that fill only Bits Stored of Bits Allocated.

    PS3.5 8.1.1 leaves open what the other bits hold.
    """
    spare = frames.dtype.itemsize * 8 - int(dataset.BitsStored)
    if (
        not np.issubdtype(frames.dtype, np.signedinteger)
        or spare <= 0
        or int(dataset.HighBit) != int(dataset.BitsStored) - 1
    ):
        return frames
    extended: Array = (frames << spare) >> spare
    return extended


def _transform(dataset: Dataset, frame_index: int) -> Dataset:
    """Return the modality transform of a frame: its own group, the shared group, or the top level."""
    holders = [dataset]
    for sequence, index in (
        ("SharedFunctionalGroupsSequence", 0),
        ("PerFrameFunctionalGroupsSequence", frame_index),
    ):
        items = read_items(dataset, sequence)
        if index < len(items):
            holders[:0] = read_items(items[index], "PixelValueTransformationSequence")
    transform = Dataset()
    holder = next((item for item in holders if any(keyword in item for keyword in _RESCALE)), None)
    if holder is None:
        return transform
    if "ModalityLUTSequence" in holder:
        transform.ModalityLUTSequence = holder.ModalityLUTSequence
        return transform
    slope, intercept = read_number(holder, "RescaleSlope"), read_number(holder, "RescaleIntercept")
    transform.RescaleSlope = 1.0 if slope is None else slope
    transform.RescaleIntercept = 0.0 if intercept is None else intercept
    return transform
