"""The character set of a finished object: the source's where it has every letter, else UTF-8."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

# The representations that a Specific Character Set is for (PS3.5 6.1.2.3).
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
UTF_8 = "ISO_IR 192"


def widen_character_set(dataset: Dataset) -> None:
    """Let an object be written in UTF-8 where its own character set lacks a letter, in place.

    A German report on a patient whose name is in Cyrillic needs letters of both.
    """
    stated = str(dataset.get("SpecificCharacterSet") or "ISO_IR 6")
    encoding = python_encoding.get(stated, "ascii")
    if all(_can_write(text, encoding) for text in _texts(dataset)):
        return
    _decode_names(dataset)
    dataset.SpecificCharacterSet = UTF_8


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _TEXT and element.value is not None:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            yield from map(str, values)


def _can_write(text: str, encoding: str) -> bool:
    try:
        return text.isascii() or text.encode(encoding).decode(encoding) == text
    except (UnicodeError, LookupError):
        return False


def _decode_names(dataset: Dataset) -> None:
    """Hold names as text: a name that was read from bytes keeps these, in the old character set."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _decode_names(item)
        elif element.VR == "PN" and element.value:
            many = isinstance(element.value, MultiValue)
            element.value = [str(name) for name in element.value] if many else str(element.value)
