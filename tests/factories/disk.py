"""What a disk may hold after a power cut, out of the system calls that a process has made (strace).

The page cache survives SIGKILL, so a kill test cannot show a missing fsync. Here the disk is modelled: a file's bytes are on it only
when fsync or fdatasync has returned after they were written, a folder's entries only when the folder was synced. What a real disk may
have written besides, in any order, is drawn at random.

A sync covers only what had been written when it began: a write that returned while it ran may be lost. Of what was not synced a cut leaves any
sectors of 512 bytes, over whatever was there before: of a preallocated file the zeros, or the records that stood there before it was recycled.

Where the model is kinder than a real disk: a truncation takes effect at the next sync; a folder's entry in its parent is like any other entry.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CALLS = (
    "open,openat,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat,"
    "mkdir,mkdirat,link,linkat,sendto,sendmsg"
)
"""What strace has to record: `strace -f -y -xx -s 2000000 -e trace=CALLS`."""

_SECTOR_BYTES = 512
_SYNCS = ("fsync", "fdatasync", "syncfs")
_LINE = re.compile(r"^(?:\[pid +)?(\d+)\]? +(.*)$")
_RESUMED = re.compile(r"^<\.\.\. \w+ resumed>(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\) += (-?\d+)(?:<[^>]*>)?.*$", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"^(-?\d+|AT_FDCWD)(?:<([^>]*)>)?")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded: `began` and `ended` are line numbers of the trace."""

    name: str
    arguments: str
    result: int
    began: int
    ended: int


@dataclass(frozen=True)
class Step:
    """One change to the disk, or an answer to a peer, in the order in which it came to be."""

    kind: Literal[
        "create",
        "write",
        "truncate",
        "sync begins",
        "sync",
        "rename",
        "unlink",
        "folder",
        "sync folder",
        "sync all",
        "answer",
    ]
    path: str
    data: bytes = b""
    offset: int = -1
    to: str = ""
    # Of a sync: the line of the trace on which it began, which names it.
    began: int = -1


@dataclass
class _File:
    """One inode: what programs see, and what is on the disk."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    # Changes since the last sync, as (number of the change, offset, bytes).
    pending: list[tuple[int, int, bytes]] = field(default_factory=list)
    # What only the sync of the whole content can bring to the disk.
    is_truncated: bool = False

    def sync(self, covered: int) -> None:
        """Bring to the disk what was changed before the change of that number."""
        later = [change for change in self.pending if change[0] >= covered]
        if not later:
            self.durable, self.is_truncated = bytes(self.content), False
        elif not self.is_truncated:
            durable = bytearray(self.durable)
            for number, offset, data in self.pending:
                if number < covered:
                    _put(durable, offset, data)
            self.durable = bytes(durable)
        self.pending = later


def read_trace(text: str) -> list[Call]:
    """Return the successful calls of a trace in the order in which they returned."""
    calls: list[Call] = []
    unfinished: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.splitlines()):
        match = _LINE.match(line)
        if match is None:
            continue
        process, rest = match.groups()
        began = number
        if rest.endswith("<unfinished ...>"):
            unfinished[process] = (rest.removesuffix("<unfinished ...>").rstrip(), number)
            continue
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            start, began = unfinished.pop(process, ("", number))
            rest = start + resumed.group(1)
        call = _CALL.match(rest)
        if call is not None and int(call.group(3)) >= 0:
            calls.append(Call(call.group(1), call.group(2), int(call.group(3)), began, number))
    return calls


def read_steps(calls: list[Call], root: Path, folders: set[str]) -> list[Step]:
    """Return what the calls did below `root`, paths relative to it, and the answers to peers. `folders` is what was there before."""
    return list(_Reader(root, folders).steps(calls))


class _Reader:
    def __init__(self, root: Path, folders: set[str]) -> None:
        self.root = str(root)
        self.folders = set(folders)

    def steps(self, calls: list[Call]) -> Iterator[Step]:
        # An answer may have left when its call began; everything else counts when its call has returned. Of a sync both count.
        moments = [
            (call.began if call.name in ("sendto", "sendmsg") else call.ended, 1, call) for call in calls
        ]
        moments += [(call.began, 0, call) for call in calls if call.name in _SYNCS]
        for _moment, is_end, call in sorted(moments, key=lambda moment: moment[:2]):
            if is_end:
                step = self._step(call)
                if step is not None:
                    yield step
            else:
                yield Step("sync begins", "", began=call.began)

    def _step(self, call: Call) -> Step | None:
        if call.name in ("sendto", "sendmsg", "write", "writev") and (
            _path_of(call.arguments) or ""
        ).startswith("socket:"):
            return Step("answer", "", _bytes_of(call.arguments))
        if call.name in ("open", "openat", "creat"):
            return self._opened(call)
        if call.name in ("mkdir", "mkdirat"):
            path = self._named(call.arguments, 0)
            if path is None:
                return None
            self.folders.add(path)
            return Step("folder", path)
        if call.name in ("rename", "renameat", "renameat2"):
            return self._renamed(call)
        if call.name in ("unlink", "unlinkat"):
            path = self._named(call.arguments, 0)
            return None if path is None else Step("unlink", path)
        return self._on_descriptor(call)

    def _opened(self, call: Call) -> Step | None:
        path = self._named(call.arguments, 0)
        if path is None or "O_DIRECTORY" in call.arguments:
            return None
        if "O_TRUNC" in call.arguments:
            return Step("truncate", path, offset=0)
        return Step("create", path) if "O_CREAT" in call.arguments else None

    def _renamed(self, call: Call) -> Step | None:
        source, target = self._named(call.arguments, 0), self._named(call.arguments, 1)
        if source is None or target is None:
            return None
        return Step("rename", source, to=target)

    def _on_descriptor(self, call: Call) -> Step | None:
        path = self._relative(_path_of(call.arguments))
        if path is None:
            return None
        if call.name == "syncfs":
            return Step("sync all", path, began=call.began)
        if call.name in ("fsync", "fdatasync"):
            return Step("sync folder" if path in self.folders else "sync", path, began=call.began)
        if call.name in ("write", "writev"):
            return Step("write", path, _bytes_of(call.arguments)[: call.result])
        if call.name.startswith("pwrite"):
            # The offset is the last argument; pwritev2 has its flags behind it.
            offset = int(re.split(r",\s*", call.arguments)[-2 if call.name == "pwritev2" else -1], 0)
            return Step("write", path, _bytes_of(call.arguments)[: call.result], offset)
        if call.name == "ftruncate":
            return Step("truncate", path, offset=int(re.split(r",\s*", call.arguments)[-1], 0))
        return None

    def _named(self, arguments: str, index: int) -> str | None:
        """Return the path of the `index`-th name among the arguments, relative to the root."""
        names = list(_TEXT.finditer(arguments))
        if len(names) <= index:
            return None
        name = _unhex(names[index].group(1)).decode("utf-8", "replace")
        if not name.startswith("/"):
            before = arguments[: names[index].start()].rstrip(", ")
            folder = _DESCRIPTOR.match(before.split(", ")[-1])
            if folder is None or folder.group(2) is None:
                return None
            name = f"{_plain(folder.group(2))}/{name}"
        return self._relative(name)

    def _relative(self, path: str | None) -> str | None:
        if path is None or path.endswith("(deleted)"):
            return None
        if path == self.root:
            return ""
        return path.removeprefix(f"{self.root}/") if path.startswith(f"{self.root}/") else None


class Disk:
    """The disk below one folder: apply steps, then `after_cut` gives what may be left."""

    def __init__(self, files: dict[str, bytes], folders: set[str]) -> None:
        self._files = {path: _File(bytearray(data), data) for path, data in files.items()}
        # Entries as programs see them, and as they are on the disk: path -> inode.
        self._durable = dict(self._files)
        self._folders, self._durable_folders = set(folders), set(folders)
        # Changes of entries since the last sync of their folder, oldest first: number, folder, path, inode.
        self._loose: list[tuple[int, str, str, _File | None]] = []
        self._changes = 0
        self._began: dict[int, int] = {}
        self.acknowledged: set[str] = set()

    def apply(self, step: Step) -> None:
        """Do what a step does."""
        path = step.path
        if step.kind == "answer":
            self.acknowledged |= set(acknowledged_by(step.data))
        elif step.kind == "folder":
            self._folders.add(path)
            self._loosen(path, None)
        elif step.kind == "create":
            if path not in self._files:
                self._enter(path, _File())
        elif step.kind == "write":
            file = self._files.get(path) or self._enter(path, _File())
            offset = len(file.content) if step.offset < 0 else step.offset
            _put(file.content, offset, step.data)
            file.pending.append((self._next_change(), offset, step.data))
        elif step.kind == "truncate":
            file = self._files.get(path) or self._enter(path, _File())
            file.is_truncated = True
            del file.content[step.offset :]
            file.content.extend(b"\0" * (step.offset - len(file.content)))
            # Nothing of it may be relied upon before the next sync, so what is on the disk stays as it was.
        elif step.kind == "rename":
            self._enter(step.to, self._files.pop(path, None) or _File())
            self._loosen(path, _GONE)
        elif step.kind == "unlink":
            self._files.pop(path, None)
            self._loosen(path, _GONE)
        else:
            self._sync(step)

    def _sync(self, step: Step) -> None:
        if step.kind == "sync begins":
            self._began[step.began] = self._changes + 1
            return
        # Without its begin a sync covers all.
        covered = self._began.pop(step.began, self._changes + 1)
        if step.kind == "sync":
            files = [self._files[step.path]] if step.path in self._files else []
        else:
            files = list(self._files.values()) if step.kind == "sync all" else []
        for file in files:
            file.sync(covered)
        if step.kind != "sync":
            self._fasten(
                [
                    change
                    for change in self._loose
                    if change[0] < covered and (step.kind == "sync all" or change[1] == step.path)
                ]
            )

    def after_cut(self, target: Path, chance: random.Random | None) -> None:
        """Write what is left below `target`: without `chance` only what was synced, else also some of the rest, torn and in any order."""
        entries, folders = dict(self._durable), set(self._durable_folders)
        for _number, _folder, path, file in self._loose:
            if chance is None or chance.random() < 0.5:
                continue
            if file is None:
                folders.add(path)
            elif file is _GONE:
                entries.pop(path, None)
            else:
                entries[path] = file
        for folder in sorted(folders):
            if all(above in folders for above in _above(folder)):
                (target / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, file in entries.items():
            if _parent(path) in folders and (target / _parent(path)).is_dir():
                (target / path).write_bytes(_remains(file, chance))

    def _enter(self, path: str, file: _File) -> _File:
        self._files[path] = file
        self._loosen(path, file)
        return file

    def _loosen(self, path: str, file: _File | None) -> None:
        self._loose.append((self._next_change(), _parent(path), path, file))

    def _next_change(self) -> int:
        self._changes += 1
        return self._changes

    def _fasten(self, changes: list[tuple[int, str, str, _File | None]]) -> None:
        for _number, _folder, path, file in changes:
            if file is None:
                self._durable_folders.add(path)
            elif file is _GONE:
                self._durable.pop(path, None)
            else:
                self._durable[path] = file
        numbers = {change[0] for change in changes}
        self._loose = [change for change in self._loose if change[0] not in numbers]


_GONE = _File()


def acknowledged_by(pdus: bytes) -> Iterator[str]:
    """Give the SOP Instance UIDs that a run of PDUs answers 0x0000 to: C-STORE-RSP, PS3.7 9.3.1.2."""
    offset = 0
    while offset + 6 <= len(pdus):
        kind, length = struct.unpack_from(">BxL", pdus, offset)
        body = pdus[offset + 6 : offset + 6 + length]
        offset += 6 + length
        if kind != 4 or len(body) < 6:
            continue
        elements = dict(_elements(body[6:]))
        if elements.get(0x0100) == b"\x01\x80" and elements.get(0x0900) == b"\0\0":
            yield elements.get(0x1000, b"").decode("ascii", "replace").rstrip("\0 ")


def _elements(command: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 8 <= len(command):
        _group, element, length = struct.unpack_from("<HHL", command, offset)
        yield element, command[offset + 8 : offset + 8 + length]
        offset += 8 + length


def _remains(file: _File, chance: random.Random | None) -> bytes:
    """Return a file's bytes after the cut: what was synced, and with `chance` some sectors of what came later."""
    left = bytearray(file.durable)
    if chance is None:
        return bytes(left)
    for _number, offset, data in file.pending:
        if chance.random() < 0.5:
            continue
        fate = chance.random()
        if fate < 0.4:
            _put(left, offset, data)
        elif fate < 0.7:
            _put(left, offset, data[: chance.randrange(0, len(data) + 1) // _SECTOR_BYTES * _SECTOR_BYTES])
        else:
            # Sectors reach the disk in any order.
            for start in range(0, len(data), _SECTOR_BYTES):
                if chance.random() < 0.5:
                    _put(left, offset + start, data[start : start + _SECTOR_BYTES])
    return bytes(left)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(data)] = data


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _above(path: str) -> list[str]:
    parts = path.split("/") if path else []
    return ["/".join(parts[:count]) for count in range(len(parts))]


def _path_of(arguments: str) -> str | None:
    match = _DESCRIPTOR.match(arguments)
    return _plain(match.group(2)) if match is not None and match.group(2) else None


def _plain(path: str) -> str:
    return _unhex(path).decode("utf-8", "replace") if "\\x" in path else path


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _bytes_of(arguments: str) -> bytes:
    return b"".join(_unhex(match.group(1)) for match in _TEXT.finditer(arguments))
