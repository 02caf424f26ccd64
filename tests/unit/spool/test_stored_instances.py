"""Group 0002 inside a dataset (PS3.5 7.1): what was negotiated wins, in every encoding."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.spool.opening import open_instance
from dicomnode.spool.part10 import dataset_offset, encode_file_meta
from dicomnode.study.headers import read_header
from tests.factories.head import head_series

CLAIMED = b"1.2.840.10008.1.2.4.70\0\0"


def encode_claim(syntax: str) -> bytes:
    """Return (0002,0010) as a sender would put it first into a dataset of this syntax."""
    if syntax == ImplicitVRLittleEndian:
        return struct.pack("<HHL", 2, 0x10, len(CLAIMED)) + CLAIMED
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    return struct.pack(f"{order}HH2sH", 2, 0x10, b"UI", len(CLAIMED)) + CLAIMED


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
@pytest.mark.parametrize("claims", [0, 1, 2])
def test_a_claim_inside_the_dataset_changes_nothing(tmp_path: Path, syntax: str, claims: int) -> None:
    instance = head_series("flair", "opening")[0]
    plain = tmp_path / "plain.dcm"
    kinds = {
        ExplicitVRBigEndian: {"implicit_vr": False, "little_endian": False},
        ImplicitVRLittleEndian: {"implicit_vr": True, "little_endian": True},
    }
    pixels = instance.pixel_array
    if syntax == ExplicitVRBigEndian:
        instance.PixelData = pixels.astype(">u2").tobytes()
    instance.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(plain, instance, enforce_file_format=True, **kinds.get(syntax, {}))  # type: ignore[arg-type]
    content = plain.read_bytes()
    dataset = content[dataset_offset(content[:144]) :]
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        dataset = (
            packer.compress(encode_claim(syntax) * claims + zlib.decompress(dataset, -zlib.MAX_WBITS))
            + packer.flush()
        )
    else:
        dataset = encode_claim(syntax) * claims + dataset
    meta = encode_file_meta(
        SOPClassUID=str(instance.SOPClassUID),
        SOPInstanceUID=str(instance.SOPInstanceUID),
        TransferSyntaxUID=str(syntax),
        calling_ae="MR",
    )
    path = tmp_path / "claimed.dcm"
    path.write_bytes(meta + dataset)

    with open_instance(path) as file:
        seen = pydicom.dcmread(file)

    assert seen.file_meta.TransferSyntaxUID == syntax
    assert 0x00020010 not in seen
    assert (seen.pixel_array == pixels).all()
    assert read_header(path).SOPInstanceUID == instance.SOPInstanceUID
