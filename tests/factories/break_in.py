"""Runs the intruder of intruder.py against open ports."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTRUDER = Path(__file__).parent / "intruder.py"
NOBODY = 65534


@contextmanager
def open_to_everybody() -> Iterator[Path]:
    """A folder that an intruder of any uid could write into."""
    with tempfile.TemporaryDirectory(prefix="intruder-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def intrude(marker: Path, ports: list[int]) -> list[str]:
    """Run the intruder, as another uid where this test may become one; return the ways that were open."""
    command = [sys.executable, str(INTRUDER), str(NOBODY), str(marker), *map(str, ports)]
    environment = {**os.environ, "HOME": str(marker.parent)}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=True)
    return answer.stdout.split()
