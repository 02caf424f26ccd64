"""Who may run on a node's folder: one of each side, and what is left of a journal read before anything else.

Rules for this file:
1. The kernel frees a lock however its process ends.
2. No side begins before what a power cut has left in the journal is files: until then a file may be half.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dicomnode.errors import StartError
from dicomnode.processes.locks import lock_file
from dicomnode.spool.journal.replay import Replayed, replay_journal
from dicomnode.spool.layout import SpoolLayout

_LOOK_S, _PATIENCE_S = 0.05, 300.0
_RECEIVE_LOCK, _REPLAY_LOCK = "receive.lock", "journal.lock"


@contextmanager
def only_one(path: Path, side: str) -> Iterator[None]:
    """Hold the lock of one side of one root; `StartError` when another process holds it."""
    with path.open("a") as handle:
        try:
            lock_file(handle)
        except OSError:
            raise StartError(
                f"another `dicomnode {side}` works on {path.parent}; stop it first or use another "
                "storage.root"
            ) from None
        yield


@contextmanager
def only_receiver(root: Path, layout: SpoolLayout) -> Iterator[Replayed]:
    """Hold the lock of the receiving side, and give what was found of its journal.

    `StartError` as `only_one`.
    """
    with ExitStack() as until_the_end:
        with _alone(root / _REPLAY_LOCK):
            until_the_end.enter_context(only_one(root / _RECEIVE_LOCK, "receive"))
            replayed = replay_journal(layout)
        yield replayed


def await_replay(root: Path, layout: SpoolLayout) -> None:
    """Return when nothing is left in the journal from before.

    It is read here, unless `receive` runs and has done so.
    """
    with _alone(root / _REPLAY_LOCK), (root / _RECEIVE_LOCK).open("a") as handle:
        try:
            lock_file(handle)
        except OSError:
            # It takes both locks in this order and lets go of the first when it has read its journal.
            return
        replay_journal(layout)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("a") as handle:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                lock_file(handle)
                break
            except OSError as problem:
                # Whoever has it reads a journal, which takes seconds.
                if time.monotonic() > deadline:
                    raise StartError(f"{path} stays locked: {problem.strerror}") from problem
                time.sleep(_LOOK_S)
        yield
