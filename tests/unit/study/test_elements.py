"""Single elements of headers: what was remembered of one image is right for the next, whatever else its header says."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Sequence

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.spool.part10 import encode_file_meta
from dicomnode.study import elements
from dicomnode.study.elements import read_numbers, read_texts, read_values

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
# Tag, VR, values that headers have of it. The smallest pixel value is signed or not as Pixel Representation
# says; a private element is what its creator says.
ELEMENTS: Sequence[tuple[int, str, Sequence[bytes]]] = (
    (0x00080005, "CS", (b"", b"ISO_IR 100", b"ISO_IR 192", b"GB18030 ")),
    (0x00080060, "CS", (b"MR", b"CT", b"")),
    (0x0008103E, "LO", (b"t1 \xc3\xa4\xc3\xb6 ", b"axial ", b"a\\b \\", b"\x1b\x07 ")),
    (0x00100010, "PN", (b"A^B ", b"C^D ")),
    (0x00100020, "LO", (b"4711", b"4711\\8")),
    (0x00180050, "DS", (b"5,0 ", b"1.5 mm", b"nan ", b"2\\3 ")),
    (0x00200013, "IS", (b"7 ", b"7.5 ", b"x ")),
    (0x00200032, "DS", (b"1\\2\\3 ", b"1\\2\\a ")),
    (0x00280010, "US", (struct.pack("<H", 256), struct.pack(">H", 256), b"\1")),
    (0x00280103, "US", (struct.pack("<H", 1), struct.pack(">H", 1), b"\0\0")),
    (0x00280106, "", (b"\xff\xff", b"\1\0")),
    (0x20010010, "LO", (b"Philips Imaging DD 001", b"Nobody")),
    (0x20011018, "SL", (struct.pack("<l", 34), struct.pack(">l", 34), b"34  ")),
)


def encode(choice: random.Random, syntax: str) -> bytes:
    """Return a file of some of the elements, each with one of its values."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    meta = encode_file_meta(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
        SOPInstanceUID="1.2.3",
        TransferSyntaxUID=syntax,
        calling_ae="A",
        peer_host="",
    )
    file = bytearray(meta)
    for tag, vr, values in ELEMENTS:
        if choice.random() < 0.2:
            continue
        value = choice.choice(values)
        value += b" " * (len(value) % 2)
        file += struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
        if syntax == ImplicitVRLittleEndian:
            file += struct.pack("<L", len(value))
        else:
            file += (vr or choice.choice(["US", "SS"])).encode() + struct.pack(f"{order}H", len(value))
        file += value
    return bytes(file)


def parse(file: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(file), force=True)


def as_texts(values: Sequence[object]) -> list[str]:
    """Return values as text, by the rules that the readers promise."""
    texts = [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in values]
    shown = ["".join(c if c.isprintable() or c == "\xa0" else " " for c in text).strip() for text in texts]
    return [text for text in shown if text]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(60))
def test_what_is_remembered_is_what_would_be_read(seed: int) -> None:
    choice = random.Random(seed)
    files = [encode(choice, choice.choice(SYNTAXES)) for _ in range(40)]
    tags = [pydicom.tag.Tag(tag) for tag, _, _ in ELEMENTS]

    remembered = []
    for file in files:
        dataset = parse(file)
        remembered.append([(read_texts(dataset, tag), read_numbers(dataset, tag)) for tag in tags])

    for file, of_file in zip(files, remembered, strict=True):
        fresh, plain = parse(file), parse(file)
        for tag, found in zip(tags, of_file, strict=True):
            elements._remembered.clear()
            texts = read_texts(fresh, tag)
            elements._remembered.clear()
            assert found == (texts, read_numbers(fresh, tag))
            assert list(found[0]) == as_texts(read_values(plain, tag))


@pytest.mark.filterwarnings("ignore")
def test_nothing_of_a_patient_is_remembered_and_little_of_anything() -> None:
    elements._remembered.clear()
    choice = random.Random(1)
    for number in range(elements._MOST_REMEMBERED + 50):
        dataset = Dataset()
        dataset.PatientID, dataset.PatientName, dataset.PatientSex = f"id {number}", f"Name^{number}", "F"
        dataset.InstanceNumber, dataset.SeriesDescription = number, "long" * 100
        file = io.BytesIO()
        dataset.save_as(file, implicit_vr=choice.random() < 0.5, little_endian=True)
        again = pydicom.dcmread(io.BytesIO(file.getvalue()), force=True)
        for keyword in ("PatientID", "PatientName", "PatientSex", "InstanceNumber", "SeriesDescription"):
            read_texts(again, keyword)

    kept = str(elements._remembered)
    assert 0 < len(elements._remembered) <= elements._MOST_REMEMBERED
    assert not any(part in kept for part in ("Name^", "id ", "'F'", "longlong"))
