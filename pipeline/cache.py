"""Results of slow steps, kept by the content that they came from, so that the same step on the same voxels is not done twice.

Rules for this file:
1. A key holds everything that the result depends on: voxels, affines, network, parameters. Who asks, and when, is not in it.
2. Entries are plain arrays and JSON (NPZ without pickles). One that cannot be read is no entry: it is removed and made again.
3. An entry appears whole or not at all (written beside, then renamed), and the oldest go when the folder grows over its limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.records import Array, Volume

FORMAT = 1
"""Part of every key: raise it when a step changes what it computes from the same parameters."""
_FACTS = "facts"
_SUFFIX = ".npz"


@dataclass(frozen=True)
class Entry:
    """What a step came to: named arrays, and facts of JSON types."""

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepCache:
    """A folder of entries; its files hold parts of patients' images, so it is private to the user."""

    folder: Path
    limit_bytes: int

    def find(self, key: str) -> Entry | None:
        """Return the entry of a key, or None; what is found becomes the newest."""
        path = self._path(key)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            facts = json.loads(arrays.pop(_FACTS).tobytes())
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with suppress(OSError):
                path.unlink()
            return None
        return Entry(arrays, facts)

    def keep(self, key: str, entry: Entry) -> None:
        """Store an entry; a folder that cannot be written to costs time, never the answer."""
        facts = np.frombuffer(json.dumps(dict(entry.facts)).encode(), np.uint8)
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as stream:
                    np.savez(stream, **{_FACTS: facts, **entry.arrays})  # type: ignore[arg-type]
                Path(name).replace(self._path(key))
            except BaseException:
                with suppress(OSError):
                    Path(name).unlink()
                raise
            self._shrink()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _shrink(self) -> None:
        """Remove the oldest entries over the limit, and what a crash left half written."""
        files = []
        for path in self.folder.iterdir():
            with suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        files.sort(reverse=True)
        total = 0
        for _, size, path in files:
            total += size
            if total > self.limit_bytes:
                with suppress(OSError):
                    path.unlink()


def make_key(step: str, *parts: Any) -> str:
    """Return the key of a step: SHA-256 over its name and everything that it depends on.

    Parameters
    ----------
    parts
        Volumes, arrays, and JSON types.
    """
    digest = hashlib.sha256(f"{FORMAT} {step}".encode())
    for part in parts:
        digest.update(_digest(part))
    return digest.hexdigest()


def _digest(part: Any) -> bytes:
    if isinstance(part, Volume):
        return _digest(part.array) + _digest(part.affine) + hashlib.sha256(part.frame_of_reference_uid.encode()).digest()
    if isinstance(part, np.ndarray):
        head = hashlib.sha256(f"{part.dtype.str} {part.shape}".encode())
        head.update(np.ascontiguousarray(part).data)
        return head.digest()
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).digest()
