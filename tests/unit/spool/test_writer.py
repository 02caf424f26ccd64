from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from dicomnode.errors import OutOfResources
from dicomnode.records import ReceivedInstance
from dicomnode.spool import writer as module
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.part10 import dataset_offset, encode_file_meta
from dicomnode.spool.writer import SpoolWriter, write_durably, write_result

# (0010,0020) LO "ABC"
DATASET = b"\x10\x00\x20\x00LO\x04\x00ABC "


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    return SpoolLayout(tmp_path / "spool")


def write(layout: SpoolLayout, data: bytes = DATASET, minimum_free_bytes: int = 0) -> ReceivedInstance:
    return SpoolWriter(layout, minimum_free_bytes).write(
        data,
        SOPClassUID=MRImageStorage,
        SOPInstanceUID="1.2.3",
        TransferSyntaxUID=ExplicitVRLittleEndian,
        calling_ae="SCANNER",
        peer_host="10.0.0.1",
        now=5.0,
    )


def kept(layout: SpoolLayout) -> list[Path]:
    return [path for path in layout.root.rglob("*") if path.is_file()]


def test_the_record_says_what_is_on_disk(layout: SpoolLayout) -> None:
    instance = write(layout)

    [file] = kept(layout)
    assert file == layout.root / instance.path
    assert instance.sha256 == hashlib.sha256(DATASET).hexdigest()
    assert (instance.size_bytes, instance.received_at, instance.peer_host) == (len(DATASET), 5.0, "10.0.0.1")
    read = dcmread(io.BytesIO(file.read_bytes()))
    assert read.PatientID == "ABC"
    assert read.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert read.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert file.read_bytes()[dataset_offset(file.read_bytes()) :] == DATASET


@given(
    uid=st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,4})){1,9}", fullmatch=True),
    title=st.sampled_from(["A", "AB", "ABC D"]),
)
def test_file_meta_is_read_back_by_pydicom_whatever_its_lengths(uid: str, title: str) -> None:
    meta = encode_file_meta(
        SOPClassUID=MRImageStorage,
        SOPInstanceUID=uid,
        TransferSyntaxUID=ExplicitVRLittleEndian,
        calling_ae=title,
    )

    read = dcmread(io.BytesIO(meta + DATASET))

    assert (read.file_meta.MediaStorageSOPInstanceUID, read.file_meta.SourceApplicationEntityTitle) == (
        uid,
        title,
    )
    assert read.PatientID == "ABC"
    assert dataset_offset(meta) == len(meta)


def test_the_order_of_what_makes_it_durable(layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.prepare()
    done: list[str] = []

    def noting(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            is_folder = name == "fsync" and Path(f"/proc/self/fd/{arguments[0]}").is_dir()
            done.append("fsync folder" if is_folder else name)
            return real(*arguments, **keywords)

        return call

    for name in ("writev", "fsync", "rename"):
        monkeypatch.setattr(module.os, name, noting(name))

    write(layout)

    assert done == ["writev", "fsync", "rename", "fsync folder"]


def test_the_same_bytes_again_are_not_written_again_but_the_folder_is_synced(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(layout)
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(module.os, "writev", lambda *_: pytest.fail("was written again"))
    monkeypatch.setattr(module.os, "fsync", lambda handle: (synced.append(handle), real(handle)))

    assert write(layout).path == first.path
    assert len(synced) == 1


def test_a_shortened_file_is_written_again(layout: SpoolLayout) -> None:
    file = layout.root / write(layout).path
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])

    write(layout)

    assert file.read_bytes() == whole


@pytest.mark.parametrize("step", ["open", "writev", "fsync", "rename"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_at_any_step_leaves_nothing(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch, step: str, code: int
) -> None:
    spool_writer = SpoolWriter(layout, 0)

    def refuse(*_arguments: Any, **_keywords: Any) -> Any:
        raise OSError(code, os.strerror(code))

    names = {
        "SOPClassUID": "1",
        "SOPInstanceUID": "1.2.3",
        "TransferSyntaxUID": "1",
        "calling_ae": "A",
        "peer_host": "",
    }
    with monkeypatch.context() as broken:
        broken.setattr(module.os, step, refuse)
        with pytest.raises(OutOfResources, match=os.strerror(code)):
            spool_writer.write(DATASET, **names, now=0.0)

    assert kept(layout) == []
    assert write(layout).size_bytes == len(DATASET)


def test_a_write_that_comes_in_pieces_is_whole(layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(module.os, "writev", lambda handle, parts: real(handle, [memoryview(parts[0])[:7]]))
    data = bytes(range(256)) * 3

    instance = write(layout, data)

    assert (layout.root / instance.path).read_bytes().endswith(data)


def test_too_little_free_space(layout: SpoolLayout) -> None:
    with pytest.raises(OutOfResources, match="minimum_free_mb"):
        write(layout, minimum_free_bytes=2**62)

    assert kept(layout) == []


def test_a_result_replaces_the_one_before(layout: SpoolLayout) -> None:
    path = layout.result_path("1.2", 1, "seg.dcm")

    write_result(layout, path, b"first")
    sha256 = write_result(layout, path, b"other")

    assert [file.read_bytes() for file in kept(layout)] == [b"other"]
    assert sha256 == hashlib.sha256(b"other").hexdigest()
    assert {
        (layout.root / path).stat().st_mode & 0o777,
        (layout.root / path).parent.stat().st_mode & 0o777,
    } == {0o600, 0o700}


def test_nothing_is_followed_out_of_the_spool(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (tmp_path / "name").symlink_to(outside)

    write_durably(tmp_path / "name", (b"new",), keep_existing=True)

    assert outside.read_bytes() == b"precious"
    assert (tmp_path / "name").read_bytes() == b"new"
