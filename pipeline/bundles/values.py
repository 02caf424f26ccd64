"""Typed values out of a bundle's manifest; a missing, wrong or unknown one is refused by its key.

A key is known when a reader looks it up: `refuse_unknown` names the first that nobody looked up, and the
nearest one that somebody did.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import BundleError


class Values:
    """The tables of one manifest, and its path."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path
        self._known: set[str] = set()
        self._declared: set[str] = set()

    def declare(self, names: Iterable[str]) -> None:
        """Say which names are looked up later: none of them is a slip of the pen for one that is missing."""
        self._declared.update(names)

    def has(self, key: str) -> bool:
        """Return whether the manifest has a key; who asks has not looked it up yet."""
        return self._find(key) is not None

    def value(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """Return the value of a dotted key, which must be of `kind`; a truth value is no number."""
        self._known.add(key)
        value = self._find(key)
        value = default if value is None else value
        if value is None:
            raise self.problem(key, f"is missing{self._hint_at_typo(key)}")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.problem(key, f"must be {' or '.join(each.__name__ for each in kinds)}, got {value!r}")
        return value

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        text: str = self.value(key, str)
        if not text.strip():
            raise self.problem(key, "is empty")
        return text

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number within its bounds."""
        number = float(self.value(key, (int, float), default))
        if not low <= number <= high:
            raise self.problem(key, f"must lie between {low:g} and {high:g}, got {number:g}")
        return number

    def one_of(self, key: str, choices: Collection[Any], default: Any = None) -> Any:
        """Return one of the choices, which are all of one type."""
        kind = type(next(iter(choices)))
        value = self.value(key, kind, default)
        if value not in choices:
            raise self.problem(key, f"{value!r} is not one of {list(choices)}{_suggest(value, choices)}")
        return value

    def row(
        self, key: str, kind: type, length: int | None = None, default: list[Any] | None = None
    ) -> tuple[Any, ...]:
        """Return a list whose items are all of `kind`; whole numbers will do where floats are asked for."""
        items = self.value(key, list, default)
        kinds = (int, float) if kind is float else (kind,)
        if any(type(item) not in kinds for item in items) or length not in (None, len(items)):
            raise self.problem(
                key,
                f"must be a list of {kind.__name__}{f', {length} of them' if length else ''}, got {items!r}",
            )
        return tuple(float(item) for item in items) if kind is float else tuple(items)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of different texts."""
        texts = self.row(key, str)
        if not texts or not all(texts) or len(set(texts)) != len(texts):
            raise self.problem(key, "needs a list of different names")
        return texts

    def share(self, key: str, default: float | None = None) -> float:
        """Return a number between 0 and 1, both excluded, written as one (0.5)."""
        return self._share(key, self.value(key, float, default))

    def shares(
        self, key: str, choices: Collection[str], default: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Return a table of numbers between 0 and 1; each of its keys must be one of the choices."""
        table = self.value(key, dict, default)
        self.refuse_others(key, table, choices)
        return {name: self._share(key, value, name) for name, value in table.items()}

    def refuse_others(self, key: str, table: Mapping[str, Any], choices: Collection[str]) -> None:
        """Refuse a table with a key that is not one of the choices."""
        for name in table:
            if name not in choices:
                raise self.problem(f"{key}.{name}" if key else name, f"is not known{_suggest(name, choices)}")

    def refuse_unknown(self) -> None:
        """Refuse the first key that no reader has looked up."""
        for key, siblings in self._unknown(self.values, ""):
            raise self.problem(key, f"is not known{_suggest(key.rpartition('.')[2], siblings)}")

    def problem(self, key: str, reason: str) -> BundleError:
        """Return the error that names the manifest and the key."""
        return BundleError(f"{self.path}: {key}: {reason}", code="model-manifest-invalid")

    def _find(self, key: str) -> Any:
        value: Any = self.values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def _share(self, key: str, value: Any, name: str = "") -> float:
        if type(value) is not float or not 0.0 < value < 1.0:
            raise self.problem(key, f"{f'{name} ' if name else ''}must lie between 0 and 1, got {value!r}")
        return value

    def _unknown(self, table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, set[str]]]:
        siblings = self._names_below(prefix)
        for name, value in table.items():
            key = f"{prefix}{name}"
            if key in self._known:
                continue
            if name in siblings and isinstance(value, dict):
                yield from self._unknown(value, f"{key}.")
            else:
                yield key, siblings

    def _names_below(self, prefix: str) -> set[str]:
        return {key[len(prefix) :].partition(".")[0] for key in self._known if key.startswith(prefix)}

    def _hint_at_typo(self, key: str) -> str:
        """Return the key that was written in place of a missing one, or nothing."""
        parent, _, name = key.rpartition(".")
        table = self._find(parent) if parent else self.values
        if table is None:
            return self._hint_at_typo(parent)
        names = (
            [undeclared_key for undeclared_key in table if undeclared_key not in self._declared]
            if isinstance(table, dict)
            else []
        )
        nearest = difflib.get_close_matches(name, names, 1)
        return (
            f"; {parent}{'.' if parent else ''}{nearest[0]} is not known: was {key} meant?" if nearest else ""
        )


def _suggest(name: Any, choices: Collection[Any]) -> str:
    nearest = difflib.get_close_matches(str(name), [str(choice) for choice in choices], 1, 0.5)
    return f"; was {nearest[0]} meant?" if nearest else ""
