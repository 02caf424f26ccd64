"""Reading single elements of headers that may be wrong.

A value that cannot be understood is absent, never an exception.

Scanners, converters and anonymisers write decimal commas, units behind numbers, text where a number belongs,
unknown character sets and the wrong VR. None of that may stop a study, so nothing here raises.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag, Tag

_NUMBER = re.compile(r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?")

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

# What pydicom raises, lazily, on values that do not fit their VR or character set.
_UNUSABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    LookupError,
    EOFError,
    struct.error,
)


# Headers are read by the same hundred keywords, each of them a search in the data dictionary.
_tag_of = functools.lru_cache(1024)(Tag)

# The images of a series say the same in nearly every element, and decoding one takes 20 microseconds. So what
# was made of the same bytes is made once: of elements whose bytes alone say what they mean (PS3.5 6.2), and
# of none that names a patient.
_MOST_REMEMBERED = 8192
_LONGEST_REMEMBERED_BYTES = 256
_PATIENT_GROUP = 0x0010
_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"})
_BINARY_VRS = frozenset({"FD", "FL", "SL", "SS", "UL", "US"})
_remembered: dict[Hashable, tuple[Any, ...]] = {}
Made = TypeVar("Made", bound=tuple[Any, ...])


def read_values(dataset: Dataset, key: str | BaseTag) -> tuple[Any, ...]:
    """Return the values of an element as they stand; empty when it is absent, empty or beyond reading."""
    tag = _tag_of(key)
    if tag not in dataset.keys():  # noqa: SIM118  the dataset itself makes a tag of the tag first
        return ()
    try:
        value = dataset[tag].value
    except _UNUSABLE:
        value = _raw_text(dataset, tag)
    if value is None or value in ("", b""):
        return ()
    if isinstance(value, MultiValue | ItemSequence | list | tuple):
        return tuple(value)
    return (value,)


def read_texts(dataset: Dataset, key: str | BaseTag) -> tuple[str, ...]:
    """Return the values as stripped text, empty ones dropped."""
    return _remember(_to_texts, dataset, _tag_of(key))


def read_text(dataset: Dataset, key: str | BaseTag) -> str:
    """Return the first value as stripped text, "" when there is none."""
    return next(iter(read_texts(dataset, key)), "")


def read_whole(dataset: Dataset, key: str | BaseTag) -> str:
    r"""Return all values of an element as they stand, with a backslash between them.

    Padding is left out; an element that is not there gives "".

    For identifiers: the first value of `4711\08` is another patient's.
    """
    values = (
        value.decode("latin-1") if isinstance(value, bytes) else str(value)
        for value in read_values(dataset, key)
    )
    return "\\".join(value.strip(" \0") for value in values)


def read_uid(dataset: Dataset, keyword: str) -> str:
    """Return a UID letter by letter, without its padding only, "" when there is none.

    From the bytes, where they are not decoded yet: pydicom takes away a newline at the end, and what is left
    is another UID.
    """
    tag = _tag_of(keyword)
    encoded = getattr(dataset.get_item(tag), "value", None) if tag in dataset else None
    return (
        encoded.decode("latin-1").strip(" \0") if isinstance(encoded, bytes) else read_whole(dataset, keyword)
    )


def read_numbers(dataset: Dataset, key: str | BaseTag) -> tuple[float, ...]:
    """Return all values as finite numbers; empty when one of them is not a number."""
    return _remember(_to_numbers, dataset, _tag_of(key))


def read_number(dataset: Dataset, key: str | BaseTag) -> float | None:
    """Return the first value as a finite number."""
    return next(iter(read_numbers(dataset, key)), None)


def read_integer(dataset: Dataset, key: str | BaseTag) -> int | None:
    """Return the first value as a whole number."""
    number = read_number(dataset, key)
    return None if number is None or number != int(number) else int(number)


def read_items(dataset: Dataset, key: str) -> Sequence[Dataset]:
    """Return the items of a sequence; empty when it is absent or not a sequence."""
    return [item for item in read_values(dataset, key) if isinstance(item, Dataset)]


def read_private_number(dataset: Dataset, group: int, creator: str, element: int) -> float | None:
    """Return a private element's number, found by its creator (PS3.5 7.8.1)."""
    tag = _private_tag(dataset, group, creator, element)
    return None if tag is None else read_number(dataset, tag)


def read_private_text(dataset: Dataset, group: int, creator: str, element: int) -> str:
    """Return a private element's first value as text, found by its creator (PS3.5 7.8.1)."""
    tag = _private_tag(dataset, group, creator, element)
    return "" if tag is None else read_text(dataset, tag)


def _private_tag(dataset: Dataset, group: int, creator: str, element: int) -> BaseTag | None:
    # pydicom sorts all elements to find a creator, and most headers have none of the group.
    if not any(tag >> 16 == group for tag in dataset.keys()):  # noqa: SIM118  iterating sorts, too
        return None
    try:
        return dataset.private_block(group, creator).get_tag(element)
    except _UNUSABLE:
        return None


def _remember(make: Callable[[tuple[Any, ...]], Made], dataset: Dataset, tag: BaseTag) -> Made:
    """Return what `make` makes of an element's values, as it did of the same bytes before."""
    if tag not in dataset.keys():  # noqa: SIM118  as in `read_values`
        return make(())
    raw = dataset.get_item(tag)
    if not isinstance(raw, RawDataElement) or not _speaks_for_itself(raw):
        return make(read_values(dataset, tag))
    charset = dataset.original_character_set
    key = (
        make,
        tag,
        raw.VR,
        raw.value,
        raw.is_little_endian,
        charset if isinstance(charset, str) else tuple(charset),
    )
    remembered: Any = _remembered.get(key)
    if remembered is None:
        remembered = make(read_values(dataset, tag))
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[key] = remembered
    result: Made = remembered
    return result


def _speaks_for_itself(raw: RawDataElement) -> bool:
    """Return whether an element that is not decoded yet means the same in every header, and names no patient.

    Not one whose VR depends on other elements, as a private one's does where no VR is written.
    """
    if raw.tag >> 16 == _PATIENT_GROUP or raw.value is None:
        return False
    return len(raw.value) <= _LONGEST_REMEMBERED_BYTES and (
        _is_text(raw.tag) if raw.VR is None else raw.VR in _TEXT_VRS or raw.VR in _BINARY_VRS
    )


@functools.lru_cache(1024)
def _is_text(tag: BaseTag) -> bool:
    """Return whether the data dictionary gives an element a VR of plain text."""
    return dictionary_has_tag(tag) and dictionary_VR(tag) in _TEXT_VRS


def _raw_text(dataset: Dataset, tag: BaseTag) -> list[str] | None:
    """Return the undecoded value split into its parts, where it still is text."""
    raw = getattr(dataset.get_item(tag), "value", None)
    return raw.decode("latin-1").strip("\x00 ").split("\\") if isinstance(raw, bytes) else None


def _to_text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    # A terminal obeys them, a database refuses them, and no element that is read as text may hold them
    # (PS3.5 6.2).
    return _CONTROLS.sub(" ", text).strip()


def _to_texts(values: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(text for value in values if (text := _to_text(value)))


def _to_numbers(values: tuple[Any, ...]) -> tuple[float, ...]:
    numbers = [_to_number(value) for value in values]
    return () if None in numbers else tuple(number for number in numbers if number is not None)


def _to_number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    match = _NUMBER.match(_to_text(value))
    if match is None:
        return None
    number = float(match.group().replace(",", "."))
    return number if math.isfinite(number) else None
