"""What a storage class holds, by the standard's own list (PS3.4 B.5).

Pixels or not, and whether it asks for an answer.
"""

from __future__ import annotations

from pydicom.config import IGNORE
from pydicom.uid import UID

_CLASSIC_MR = "1.2.840.10008.5.1.4.1.1.4"
_ENHANCED_MR = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.3", "1.2.840.10008.5.1.4.1.1.4.4")

MR_STORAGE = frozenset({_CLASSIC_MR, *_ENHANCED_MR})
"""MR, Enhanced MR, Enhanced MR Color and Legacy Converted Enhanced MR Image Storage (PS3.4 B.5)."""

# Storage classes that come with studies but do not ask for an answer: our own SEG and SR coming back, other
# reports, presentation states, key objects, registrations, plans, waveforms, documents (PS3.4 B.5).
_UNANSWERED = (
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.9.",
    "1.2.840.10008.5.1.4.1.1.104.",
    "1.2.840.10008.5.1.4.1.1.481.",
    "1.2.840.10008.5.1.4.1.1.7.",
    "1.2.840.10008.5.1.4.34.",
    "1.2.840.10008.5.1.4.43.",
)
# Secondary Capture, Parametric Map, MR Spectroscopy: no image that a scanner sends for reading as a volume.
_UNANSWERED_CLASSES = frozenset(
    {"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.4.2"}
)


def asks_for_answer(SOPClassUID: str) -> bool:
    """Return whether an object of a class re-opens its study.

    An image does, a report or a segmentation does not.
    """
    return SOPClassUID not in _UNANSWERED_CLASSES and not SOPClassUID.startswith(_UNANSWERED)


def is_image(SOPClassUID: str) -> bool:
    """Return whether every object of a class has pixel data.

    Of a class that is not in the standard nothing is expected.
    """
    return "Image Storage" in UID(SOPClassUID, IGNORE).name
