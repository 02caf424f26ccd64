"""Durable writing: a temporary file in the same folder, fsync, rename, fsync of the folder.

Rules for this file:
1. A file has its final name only when all of its bytes are on the disk; a half file never has one.
2. Whatever goes wrong, the temporary file is gone and the caller hears `OutOfResources`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Unpack

from dicomnode.errors import NotUnderstood, OutOfResources
from dicomnode.records import Arrival, ReceivedInstance
from dicomnode.spool.layout import SpoolLayout, make_durable_folders
from dicomnode.spool.part10 import (
    HEAD_BYTES,
    FileMeta,
    dataset_offset,
    decode_file_meta,
    encode_file_meta,
)
from dicomnode.spool.space import FreeSpace
from dicomnode.uids import is_uid

TEMPORARY_SUFFIX = ".part"
# What is the same for all that one sender sends of a class; besides, whom it called.
_SENDER = ("SOPClassUID", "TransferSyntaxUID", "calling_ae", "peer_host")

_serial = itertools.count()

Buffer = bytes | bytearray | memoryview


class SpoolWriter:
    """Makes received instances safe. Thread-safe.

    Parameters
    ----------
    layout
        Where things lie; its folders are made here.
    minimum_free_bytes
        An instance that would leave less free space is refused.
    resume_free_bytes
        Once one was refused, so much must be free before another is taken: a disk at the mark would take one
        and refuse the next.

    Raises
    ------
    StartError
        The folders cannot be made.
    """

    def __init__(self, layout: SpoolLayout, minimum_free_bytes: int, resume_free_bytes: int = 0) -> None:
        self.layout = layout
        self.space = FreeSpace(layout.root, minimum_free_bytes, resume_free_bytes)
        layout.prepare()

    def set_limits(self, minimum_free_bytes: int, resume_free_bytes: int) -> None:
        """Take other limits of free space from now on."""
        self.space.set_limits(minimum_free_bytes, resume_free_bytes)

    def write(self, encoded_dataset: bytes | bytearray, **arrival: Unpack[Arrival]) -> ReceivedInstance:
        """Store a dataset as received; when this returns it survives a power cut.

        The same bytes again are not written again.

        Raises
        ------
        NotUnderstood
            A UID that is none. Nothing is written: such a name could not be read back.
        OutOfResources
            Too little free space, or the disk refused.
        """
        instance, head = self.describe(encoded_dataset, **arrival)
        self.keep_as_file(instance, head, encoded_dataset)
        return instance

    def describe(
        self, encoded_dataset: bytes | bytearray, **arrival: Unpack[Arrival]
    ) -> tuple[ReceivedInstance, bytes]:
        """Return the ledger's row of a dataset as received, and the Part 10 head of its file.

        `NotUnderstood` for a UID that is none.
        """
        for name, uid in (
            ("SOP Class", arrival["SOPClassUID"]),
            ("SOP Instance", arrival["SOPInstanceUID"]),
            ("Transfer Syntax", arrival["TransferSyntaxUID"]),
        ):
            if not is_uid(uid):
                raise NotUnderstood(f"the {name} UID of the request is no UID (PS3.5 9.1)")
        sha256 = hashlib.sha256(encoded_dataset).hexdigest()
        path = self.layout.instance_path(arrival["SOPInstanceUID"], sha256)
        sender = {name: str(arrival[name]) for name in _SENDER}  # type: ignore[literal-required]
        sender["called_ae"] = arrival.get("called_ae", "")
        meta = _read_back(**sender)
        # A UID is read back as it was written: digits and dots have no padding.
        instance = ReceivedInstance(
            SOPInstanceUID=arrival["SOPInstanceUID"],
            SOPClassUID=meta.SOPClassUID,
            TransferSyntaxUID=meta.TransferSyntaxUID,
            path=path,
            sha256=sha256,
            size_bytes=len(encoded_dataset),
            calling_ae=meta.calling_ae,
            called_ae=meta.called_ae,
            peer_host=meta.peer_host,
            received_at=arrival["now"],
        )
        return instance, encode_file_meta(SOPInstanceUID=arrival["SOPInstanceUID"], **sender)

    def keep_as_file(
        self, instance: ReceivedInstance, head: bytes, encoded_dataset: bytes | bytearray
    ) -> None:
        """Write the file of an instance; when this returns it survives a power cut.

        `OutOfResources` when there is too little free space, or the disk refused.
        """
        try:
            self.space.require(len(encoded_dataset))
            write_durably(
                self.layout.root / instance.path,
                (head, encoded_dataset),
                keep_existing=True,
                modified_at=instance.received_at,
            )
        except OSError as problem:
            raise OutOfResources(f"the spool cannot be written: {problem.strerror}") from problem

    def holds(self, instance: ReceivedInstance) -> bool:
        """Return whether an instance's file is there."""
        return (self.layout.root / instance.path).exists()

    def holds_whole(self, instance: ReceivedInstance) -> bool:
        """Return whether an instance's file is there, can be read, and is as long as what was received."""
        return dataset_bytes(self.layout.root / instance.path) == instance.size_bytes


@lru_cache(maxsize=256)
def _read_back(**sender: str) -> FileMeta:
    """Return what the file meta information of a sender's instances says, whatever their own UID.

    The row comes from what is written, so that the one which recovery makes of the file is the same.
    """
    meta = decode_file_meta(encode_file_meta(SOPInstanceUID="0", **sender))
    if meta is None:
        raise ValueError("no file meta information")
    return meta


def describe_instance(
    head: bytes, *, path: str, sha256: str, size_bytes: int, received_at: float
) -> ReceivedInstance:
    """Return the ledger's row of a file that starts with `head`.

    `ValueError` when that is no file meta information.
    """
    meta = decode_file_meta(head)
    if meta is None:
        raise ValueError("no file meta information")
    return ReceivedInstance(
        SOPInstanceUID=meta.SOPInstanceUID,
        SOPClassUID=meta.SOPClassUID,
        TransferSyntaxUID=meta.TransferSyntaxUID,
        path=path,
        sha256=sha256,
        size_bytes=size_bytes,
        calling_ae=meta.calling_ae,
        called_ae=meta.called_ae,
        peer_host=meta.peer_host,
        received_at=received_at,
    )


def write_result(layout: SpoolLayout, relative_path: str, data: bytes) -> str:
    """Store a finished result durably, replacing an earlier one, and return the SHA-256 of its bytes.

    Raise `OutOfResources`.
    """
    path = layout.root / relative_path
    try:
        make_durable_folders(path.parent)
        write_durably(path, (data,), keep_existing=False)
    except OSError as problem:
        raise OutOfResources(f"the spool cannot be written: {problem.strerror}") from problem
    return hashlib.sha256(data).hexdigest()


def write_durably(
    path: Path, buffers: Sequence[Buffer], *, keep_existing: bool, modified_at: float | None = None
) -> None:
    """Write buffers one after the other to `path`, private to the user.

    Raise `OSError` and leave nothing behind when that fails.

    With `keep_existing` a DICOM file whose dataset is as long as the last buffer stays as it is: its name
    says that it holds the same bytes. `modified_at` becomes the file's time (seconds since the epoch).
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not (keep_existing and dataset_bytes(path) == len(buffers[-1])):
            _write_and_rename(str(path), buffers, modified_at, waits_for_disk=True)
        # Also for a file that was there: whoever renamed it may not have got as far as this.
        os.fsync(folder)
    finally:
        os.close(folder)


def write_behind(path: str, buffers: Sequence[Buffer], *, modified_at: float) -> None:
    """Write buffers one after the other to `path`, private to the user, without waiting for the disk.

    Whole for everybody who opens it, unless the power goes: until the disk was synced, what is written has to
    be safe elsewhere too. Raise `OSError` and leave nothing behind when that fails.
    """
    _write_and_rename(path, buffers, modified_at, waits_for_disk=False)


def _write_and_rename(
    path: str, buffers: Sequence[Buffer], modified_at: float | None, *, waits_for_disk: bool
) -> None:
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{os.getpid()}.{next(_serial)}{TEMPORARY_SUFFIX}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _write_all(handle, buffers)
            if modified_at is not None:
                nanoseconds = round(modified_at * 1e9)
                os.utime(handle, ns=(nanoseconds, nanoseconds))
            if waits_for_disk:
                os.fsync(handle)
                # The pages are on the disk; given back, they take the next instance without the kernel
                # looking for fresh ones. Where memory is not at hand (a virtual machine, a full page cache)
                # that is a third of the time of a write.
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
        os.rename(temporary, path)  # noqa: PTH104  here and below: no objects for a call
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108
        raise


def _write_all(handle: int, buffers: Sequence[Buffer]) -> None:
    left = [memoryview(buffer) for buffer in buffers if buffer]
    while left:
        written = os.writev(handle, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def dataset_bytes(path: str | Path) -> int:
    """Return how long the dataset in a stored instance is; -1 when there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1
    try:
        offset = dataset_offset(os.read(handle, HEAD_BYTES))
        return os.fstat(handle).st_size - offset if offset else -1
    finally:
        os.close(handle)
