"""Single elements of a header: whether a value is one of its element, and setting it as it is."""

from __future__ import annotations

import functools

from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from dicomnode.uids import is_uid


@functools.lru_cache(4096)
def is_legal(keyword: str, value: str) -> bool:
    """Return whether a text is empty or a value of its element's value representation (PS3.5 6.2)."""
    if not value:
        return True
    if dictionary_VR(keyword) == "UI":
        return is_uid(value)
    try:
        validate_value(dictionary_VR(keyword), value, config.RAISE)
    except ValueError:
        return False
    return True


def set_element(dataset: Dataset, keyword: str, value: object) -> None:
    """Set an element without judging its value."""
    # Identity that is too long for its element is kept as it is: a shortened Patient ID would be another
    # patient's.
    dataset.add(DataElement(Tag(keyword), dictionary_VR(keyword), value, validation_mode=config.IGNORE))
