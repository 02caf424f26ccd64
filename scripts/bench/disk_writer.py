"""Another program that writes to the same disk, until it is stopped.

    python -m scripts.bench.disk_writer FILE MB_PER_S

It writes a megabyte at a time, at a steady rate, over and over the same half gigabyte, and leaves it to the
system when that reaches the disk, as most programs do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = bytes(range(256)) * 4096
FILE_BLOCKS = 512


@contextmanager
def writing(folder: Path, mb_per_s: float) -> Iterator[None]:
    """Have a process write so much a second into a folder meanwhile; 0: nobody writes."""
    if not mb_per_s:
        yield
        return
    command = [sys.executable, __file__, str(folder / "other"), str(mb_per_s)]
    process = subprocess.Popen(command)
    try:
        yield
        if process.poll() is not None:
            raise SystemExit("the other writer has ended by itself")
    finally:
        process.terminate()
        process.wait(30)


def write(file: Path, mb_per_s: float) -> None:
    """Write for ever; where the disk is slower than the rate, as fast as it goes."""
    pause_s, due_at = len(BLOCK) / (mb_per_s * 1e6), time.monotonic()
    with file.open("wb", buffering=0) as output:
        while True:
            for _ in range(FILE_BLOCKS):
                output.write(BLOCK)
                due_at = max(due_at + pause_s, time.monotonic() - pause_s)
                time.sleep(max(0.0, due_at - time.monotonic()))
            output.seek(0)


if __name__ == "__main__":
    write(Path(sys.argv[1]), float(sys.argv[2]))
