"""The files below a folder, in order.

Folders that are linked in are looked into, as studies often lie elsewhere; none twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every regular file, sorted folder by folder.

    A link that leads back to where it lies ends there.
    """
    visited: set[Path] = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        here = Path(name)
        real = here.resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        yield from (here / file for file in sorted(files) if (here / file).is_file())
