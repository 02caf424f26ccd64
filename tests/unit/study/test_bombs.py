"""Files made to eat memory or time are set aside before they are parsed; images of every kind are not."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomnode.errors import UnreadableInstance
from dicomnode.study import bombs
from dicomnode.study.headers import read_header
from tests.factories.instances import small_instance


def write(path: Path, more: bytes = b"", *, deflated: bool = False) -> Path:
    """Write a small instance with more bytes between its header and its pixels."""
    instance = small_instance(1)
    pixels = instance.PixelData
    del instance.PixelData
    if deflated:
        instance.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    instance.save_as(path, enforce_file_format=True)
    pixel_element = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels
    if not deflated:
        path.write_bytes(path.read_bytes() + more + pixel_element)
        return path
    group_length = struct.unpack_from("<L", path.read_bytes(), 140)[0]
    meta, body = (
        path.read_bytes()[: 144 + group_length],
        zlib.decompress(path.read_bytes()[144 + group_length :], -zlib.MAX_WBITS),
    )
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(meta + deflate.compress(body + more + pixel_element) + deflate.flush())
    return path


def sequence(items: int) -> bytes:
    return (
        struct.pack("<HH2sHL", 0x4001, 0x1001, b"SQ", 0, 0xFFFFFFFF)
        + b"\xfe\xff\x00\xe0\0\0\0\0" * items
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableInstance) as caught:
        read_header(path)
    return str(caught.value).partition(":")[0]


@pytest.mark.parametrize("deflated", [False, True])
def test_ordinary_files_are_read(tmp_path: Path, deflated: bool) -> None:
    assert read_header(write(tmp_path / "a.dcm", sequence(20), deflated=deflated)).Rows == 16


@pytest.mark.parametrize("deflated", [False, True])
def test_a_sequence_of_nothing_but_items(tmp_path: Path, deflated: bool) -> None:
    assert (
        refusal(write(tmp_path / "a.dcm", sequence(bombs.MOST_ITEMS + 1), deflated=deflated))
        == "too-many-items"
    )


def test_items_are_counted_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "_CHUNK_BYTES", 13)
    monkeypatch.setattr(bombs, "MOST_ITEMS", 50)
    assert refusal(write(tmp_path / "a.dcm", sequence(51))) == "too-many-items"
    assert read_header(write(tmp_path / "b.dcm", sequence(50))).Rows == 16


def test_a_small_file_that_inflates_to_a_large_one(tmp_path: Path) -> None:
    blob = struct.pack("<HH2sHL", 0x4001, 0x1002, b"OB", 0, 2 * bombs.LARGEST_INFLATED_BYTES) + bytes(
        2 * bombs.LARGEST_INFLATED_BYTES
    )
    path = write(tmp_path / "a.dcm", blob, deflated=True)

    assert path.stat().st_size < 2**20
    assert refusal(path) == "too-large"


def test_more_elements_than_any_image_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "MOST_READS", 4000)
    elements = b"".join(struct.pack("<HH2sH", 0x4003, number, b"SH", 0) for number in range(0x1000, 0x2000))
    assert refusal(write(tmp_path / "a.dcm", elements)) == "too-many-elements"


def test_a_hundred_thousand_levels_deep(tmp_path: Path) -> None:
    opening = (
        struct.pack("<HH2sHL", 0x4001, 0x1001, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    assert refusal(write(tmp_path / "a.dcm", opening * 100_000)) == "unreadable"
