"""Typed values out of a bundle's manifest; a missing or wrong one is refused by its key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BundleError


class Values:
    """The tables of one manifest, and where it lies."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        """Return what lies under a dotted key, which must be of `kind`."""
        here: Any = self.values
        for part in key.split("."):
            here = here.get(part) if isinstance(here, dict) else None
        if here is None:
            here = default
        if here is None:
            raise self.problem(key, "is missing")
        if not isinstance(here, kind) or (kind is int and isinstance(here, bool)):
            raise self.problem(key, f"must be {kind.__name__}, got {here!r}")
        return here

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        text: str = self.value(key, str)
        if not text.strip():
            raise self.problem(key, "is empty")
        return text

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number within its bounds."""
        number = float(self.value(key, (int, float), default))  # type: ignore[arg-type]
        if not low <= number <= high:
            raise self.problem(key, f"must lie between {low:g} and {high:g}, got {number:g}")
        return number

    def one_of(self, key: str, known: Collection[str], default: str | None = None) -> str:
        """Return one of the texts that are known."""
        text: str = self.value(key, str, default)
        if text not in known:
            raise self.problem(key, f"{text!r} is not one of {list(known)}")
        return text

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of different texts."""
        texts = self.value(key, list)
        if not texts or not all(isinstance(text, str) and text for text in texts) or len(set(texts)) != len(texts):
            raise self.problem(key, "needs a list of different names")
        return tuple(texts)

    def problem(self, key: str, what: str) -> BundleError:
        """Return the error that names the manifest and the key."""
        return BundleError(f"{self.path}: {key}: {what}", code="model-manifest-invalid")
