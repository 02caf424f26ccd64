"""What a worker process does about its memory, so that studies do not wait for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_TOUCHED_MB = 256
_PIECE_MB = 16
"""Less than what the C library gives back to the system at once (`compute._SETTINGS`)."""


def warm_memory() -> None:
    """Take memory that the first study would take page by page, and free it for its arrays.

    A new page costs some 40 microseconds on a virtual machine, so a first study took half a second longer
    than later ones. What there is now is left alone by the garbage collector.
    """
    pieces = [np.ones(_PIECE_MB * 2**20, np.uint8) for _ in range(_TOUCHED_MB // _PIECE_MB)]
    del pieces
    gc.collect()
    gc.freeze()


@contextmanager
def pause_collector() -> Iterator[None]:
    """Look for no cycles of garbage meanwhile, and go on with that afterwards if it was on.

    A study makes a million small objects and hardly a cycle; looking through them took 6 % of its time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
