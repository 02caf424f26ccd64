"""SimpleITK on one thread.

The same sums in the same order, so the same bits from every run and on every machine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK

_gate = threading.Lock()
_inside = 0
_default = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the filters and registrations that are made inside to one thread.

    `SetNumberOfThreads` of a registration or of N4 does not reach what it makes in turn (the metric, the fit
    of the field): only the default of the whole process does. Several threads may be inside at once: the
    default comes back when the last of them leaves.
    """
    global _inside, _default  # noqa: PLW0603  the default belongs to the process, so does the count
    with _gate:
        if _inside == 0:
            _default = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        _inside += 1
    try:
        yield
    finally:
        with _gate:
            _inside -= 1
            if _inside == 0:
                SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(_default)
