"""Every path of the spool. Names are made from hashes, never from peer text."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from dicomnode.errors import StartError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*")


@dataclass(frozen=True)
class SpoolLayout:
    """Where things lie below `root`.

    incoming/<hex digit>/<UID hash>-<content hash>.dcm
        what was received; 16 folders that exist from the start, so that receiving never has to make (and
        sync) one
    results/<study hash>/<revision>/<name>
        what was made of it
    journal/<number>.segment
        what was received and is not a file of its own yet, see `dicomnode.spool.journal`
    aside/
        files whose bytes no longer fit their name's hash
    listed.json
        the word of an orderly stop, see `dicomnode.spool.orderly`
    """

    root: Path

    @property
    def incoming(self) -> Path:
        """Folder of received instances."""
        return self.root / "incoming"

    @property
    def results(self) -> Path:
        """Folder of finished results."""
        return self.root / "results"

    @property
    def journal(self) -> Path:
        """Folder of the segments of the journal."""
        return self.root / "journal"

    @property
    def aside(self) -> Path:
        """Folder of files that were found damaged."""
        return self.root / "aside"

    def instance_path(self, SOPInstanceUID: str, sha256: str) -> str:
        """Return the path of a received instance, relative to the root (POSIX).

        `sha256` is the hex digest of its dataset bytes.
        """
        name = hashlib.sha256(SOPInstanceUID.encode("utf-8", "surrogateescape")).hexdigest()
        return f"incoming/{name[0]}/{name[:32]}-{sha256[:32]}.dcm"

    def result_path(self, StudyInstanceUID: str, revision: int, filename: str) -> str:
        """Return the path of a result, relative to the root (POSIX); `filename` is the node's own word."""
        if not _PLAIN_NAME.fullmatch(filename):
            raise ValueError(f"{filename!r} is not a plain file name")
        return f"{self.results_of(StudyInstanceUID)}/{revision}/{filename}"

    def results_of(self, StudyInstanceUID: str) -> str:
        """Return the folder of all that was made of a study, relative to the root (POSIX)."""
        name = hashlib.sha256(StudyInstanceUID.encode("utf-8", "surrogateescape")).hexdigest()
        return f"results/{name[:32]}"

    def prepare(self) -> None:
        """Make every folder that receiving needs, private to the user and durable.

        `StartError` when that cannot be.
        """
        try:
            make_durable_folders(self.root)
            # A folder that somebody else made is made private too: what lies below is patient data.
            self.root.chmod(0o700)
            make_durable_folders(
                self.results, self.aside, *(self.incoming / digit for digit in "0123456789abcdef")
            )
        except OSError as problem:
            raise StartError(f"the spool {self.root} cannot be made: {problem.strerror}") from problem


def make_durable_folders(*folders: Path) -> None:
    """Make folders and what is missing above them, private to the user.

    When this returns a power cut cannot take them back.
    """
    changed: dict[Path, None] = {}
    for folder in folders:
        missing = [above for above in (folder, *folder.parents) if not above.is_dir()]
        for new_folder in reversed(missing):
            new_folder.mkdir(mode=0o700, exist_ok=True)
            # A new folder is an entry of its parent. It is synced itself too, else the first instance in it
            # would wait for that.
            changed |= {new_folder.parent: None, new_folder: None}
    for folder in changed:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
