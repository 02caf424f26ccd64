"""Reading the content tree of a structured report (PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset


def walk_content(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one, depth first."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk_content(child)


def concept(item: Dataset) -> str:
    """Return the code value of a content item's concept name, or nothing."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def code_of(item: Dataset) -> tuple[str, str]:
    """Return (value, scheme) of an item that is a code."""
    return str(item.CodeValue), str(item.CodingSchemeDesignator)


def code_values(item: Dataset, name: str) -> list[str]:
    """Return the values of all codes below an item whose concept name is `name`."""
    return [
        str(child.ConceptCodeSequence[0].CodeValue)
        for child in walk_content(item)
        if child.ValueType == "CODE" and concept(child) == name
    ]


def number_of(item: Dataset) -> float:
    """Return the number of a NUM item."""
    return float(item.MeasuredValueSequence[0].NumericValue)


def text_of(group: Dataset, name: str) -> str:
    """Return the first text or UID below an item whose concept name is `name`, or nothing."""
    for item in walk_content(group):
        if concept(item) == name:
            return str(item.get("UID") or item.get("TextValue") or "")
    return ""
