"""What a UID is: one answer for every room, so that what one room takes in another never refuses."""

from __future__ import annotations

import re
from functools import lru_cache

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAXIMUM_LENGTH = 64


def is_uid(text: str) -> bool:
    """Return whether a text can be carried as a UID, letter by letter.

    Digits and dots, no empty component, at most 64 characters (PS3.5 9.1). A leading zero in a component is
    let through, although PS3.5 9.1 forbids it: scanners in the field write such UIDs, and a UID that is
    changed names another object.
    """
    return len(text) <= _MAXIMUM_LENGTH and _is_dotted(text)


@lru_cache(maxsize=1024)
def _is_dotted(text: str) -> bool:
    # An instance's UID is asked about half a dozen times on its way in.
    return _UID.fullmatch(text) is not None
