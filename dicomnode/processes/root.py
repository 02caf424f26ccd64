"""The node's own folder: made private to the service user, and made so again where somebody opened it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import structlog

from dicomnode.errors import StartError

log = structlog.get_logger()

_OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO
# What a node makes in its folder; anything else there belongs to somebody else.
_OURS = frozenset(
    {
        "spool",
        "audit",
        "scratch",
        "cache",
        "receive.json",
        "receive.lock",
        "work.lock",
        "work.bell",
        "offline",
        "web",
        "web.json",
        "web.lock",
    }
)
_LEDGER_PREFIX = "ledger.sqlite3"


def prepare_root(root: Path) -> None:
    """Make the folder of a node, or close one that other users can look into.

    Raises
    ------
    StartError
        It cannot be made or written to, or others can look into it and it is not ours to close.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
    except OSError as problem:
        raise StartError(f"storage.root: {root} cannot be made: {problem.strerror}") from None
    if not os.access(root, os.W_OK | os.X_OK):
        raise StartError(f"storage.root: {root} is not writable for this user")
    # Windows keeps who may look into a folder elsewhere than in its mode.
    if not hasattr(os, "getuid") or not status.st_mode & _OTHER_USERS:
        return
    if status.st_uid != os.getuid():
        # A folder of root's for the group of the service is a usual way to set this up; one for everybody is
        # not.
        if status.st_mode & stat.S_IRWXO:
            raise StartError(
                f"storage.root: {root} is open to every user (mode {mode_of(status.st_mode)}): chmod "
                "0750 it, or give it to us"
            )
        return
    if strangers := _foreign_content(root):
        raise StartError(
            f"storage.root: {root} is open to other users (mode {mode_of(status.st_mode)}) "
            f"and holds {strangers[0]!r}, "
            "which is not the node's; give the node a folder of its own"
        )
    root.chmod(0o700)
    log.warning(
        "storage_root_closed",
        path=root,
        advice="other users could look into it; it is private now (mode 0700)",
    )


def mode_of(mode: int) -> str:
    """Return the permission bits as people write them."""
    return f"{stat.S_IMODE(mode):04o}"


def _foreign_content(root: Path) -> list[str]:
    names = (entry.name for entry in root.iterdir())
    return sorted(name for name in names if name not in _OURS and not name.startswith(_LEDGER_PREFIX))
