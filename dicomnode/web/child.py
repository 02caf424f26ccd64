"""Work on foreign files in a process of its own, with limits of time and memory.

A crash there is a sentence here.

The task travels in a file that only this user can read, written and read by this program alone.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.errors import CaseRefused

_REFUSED = 1
_NICENESS = 10
_LONGEST_SENTENCE = 2000
Argument = TypeVar("Argument")


class Child:
    """A function that runs in a process of its own.

    Parameters
    ----------
    function
        A function of a module; the process imports it by its name.
    argument
        What it is called with; it and all that is in it can be pickled.
    memory_bytes
        What the process may take; more ends it.
    limit_s
        How long it may take.
    """

    def __init__(
        self, function: Callable[[Argument], None], argument: Argument, memory_bytes: int, limit_s: float
    ) -> None:
        handle, name = tempfile.mkstemp(prefix="dicomnode-task-")
        with os.fdopen(handle, "wb") as file:
            pickle.dump((function, argument, memory_bytes), file)
        self._task = Path(name)
        self._end = time.monotonic() + limit_s
        # -P: what lies in the folder that the node is started in is not taken for a module.
        command = [sys.executable, "-P", "-m", "dicomnode.web.child", name]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def is_done(self) -> bool:
        """Return whether it has ended; one that takes too long is ended now."""
        if self._process.poll() is None and time.monotonic() > self._end:
            self._process.kill()
            self._process.wait()
        return self._process.poll() is not None

    def problem(self) -> str:
        """Return why it did not do its work, in a sentence without patient data, or nothing.

        It has to be done.
        """
        self._task.unlink(missing_ok=True)
        stdout = self._process.stdout
        output = b"" if stdout is None or stdout.closed else stdout.read(_LONGEST_SENTENCE)
        code = self._process.wait()
        self._close()
        if code == 0:
            return ""
        if code == _REFUSED:
            return output.decode("utf-8", "replace").strip() or "it was refused"
        return (
            "the process that worked on it ended; "
            "it needs more memory or time than it may take, or is damaged"
        )

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._close()
        self._task.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()


def main(task: Path) -> int:
    """Carry out a task; return the exit code. What a `CaseRefused` says goes to standard output."""
    with task.open("rb") as file:
        # The task was written by our own parent, mode 0600.
        function, argument, memory_bytes = pickle.load(file)  # noqa: S301
    task.unlink(missing_ok=True)
    _limit(memory_bytes)
    try:
        function(argument)
    except CaseRefused as refusal:
        sys.stdout.write(str(refusal))
        return _REFUSED
    return 0


def _limit(memory_bytes: int) -> None:
    """Limit this process; Windows has neither of these limits and ends what takes too much in its own way."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    os.nice(_NICENESS)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
