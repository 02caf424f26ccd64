"""Which objects an answer has in the form that a destination wants."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from dicomnode.settings.config import ResultForm, ResultKind

PARTS: tuple[ResultKind, ...] = get_args(ResultKind)
"""In the order in which they are made and sent: what is pointed to before what points to it."""
_BITS = 8


def settle(form: ResultForm, *, found: bool, columns: int = _BITS) -> ResultForm:
    """Return the form without what depends on the study: equal settled forms give the same objects.

    Parameters
    ----------
    found
        Whether there is a lesion; without one no SEG is made, and nothing points to one.
    columns
        Columns of the reference image. Rows of 1-bit pixels that fill no whole bytes are decoded wrongly by
        several viewers and archives.
    """
    if not found:
        return replace(form, segmentation="binary")
    if form.segmentation == "auto":
        return replace(form, segmentation="pseudo-fractional" if columns % _BITS else "binary")
    return form
