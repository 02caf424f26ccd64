"""The UIDs of a dataset are found as pydicom's writer wrote them, whatever stands before them; noise raises nothing."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.network.first_elements import (
    SERIES_INSTANCE,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_INSTANCE,
    dataset_uids,
)

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
KEYWORDS = {
    SOP_CLASS: "SOPClassUID",
    SOP_INSTANCE: "SOPInstanceUID",
    STUDY_INSTANCE: "StudyInstanceUID",
    SERIES_INSTANCE: "SeriesInstanceUID",
}
UIDS = st.integers(0, 10**60).map("2.{}".format)


def encoded(dataset: Dataset, syntax: UID) -> bytes:
    file = io.BytesIO()
    dcmwrite(file, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return file.getvalue()


def nested(depth: int, count: int, is_undefined: bool) -> list[Dataset]:
    """Return items of a sequence, each with a UID that is none of the dataset's own."""
    items = []
    for number in range(count):
        item = Dataset()
        item.SOPInstanceUID = item.StudyInstanceUID = f"9.9.{depth}.{number}"
        if depth:
            item.ReferencedImageSequence = nested(depth - 1, count, is_undefined)
            item["ReferencedImageSequence"].is_undefined_length = is_undefined
        item.is_undefined_length_sequence_item = is_undefined
        items.append(item)
    return items


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(deadline=None, max_examples=15)
@given(
    uids=st.dictionaries(st.sampled_from(list(KEYWORDS)), UIDS),
    depth=st.integers(0, 2),
    count=st.integers(0, 2),
    is_undefined=st.booleans(),
)
def test_the_uids_of_a_dataset_and_not_those_of_its_sequences(
    syntax: UID, uids: dict[int, str], depth: int, count: int, is_undefined: bool
) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "NOT^LOOKED AT"
    dataset.ReferencedStudySequence = nested(depth, count, is_undefined)
    dataset["ReferencedStudySequence"].is_undefined_length = is_undefined
    dataset.add_new(0x00091010, "UN", b"\x00\x01" * 3000)
    for tag, uid in uids.items():
        setattr(dataset, KEYWORDS[tag], uid)

    assert dataset_uids(encoded(dataset, syntax), syntax) == uids


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
def test_noise_raises_nothing(noise: bytes, syntax: UID) -> None:
    assert set(dataset_uids(noise, syntax)) <= set(KEYWORDS)


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from(SYNTAXES))
def test_a_damaged_dataset_raises_nothing(data: st.DataObject, syntax: UID) -> None:
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.3"
    dataset.ReferencedStudySequence = nested(2, 2, is_undefined=True)
    dataset["ReferencedStudySequence"].is_undefined_length = True
    damaged = bytearray(encoded(dataset, syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    assert set(dataset_uids(damaged, syntax)) <= set(KEYWORDS)
