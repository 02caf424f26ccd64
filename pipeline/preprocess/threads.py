"""SimpleITK on one thread.

The same sums in the same order, so the same bits from every run and on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the filters and registrations that are made inside to one thread.

    `SetNumberOfThreads` of a registration or of N4 does not reach what it makes in turn (the metric, the fit
    of the field): only the default of the whole process does. So it is for a process that works on one study
    at a time.
    """
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
