"""One multi-frame image that came as several instances, and whether all of it is there.

The standard calls it a concatenation (PS3.3 C.7.6.16.2.2.4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dicomnode.records import Finding, InstanceHeader, Series


@dataclass(frozen=True)
class Concatenation:
    """One multi-frame image that was cut into several instances: those that are there, of how many.

    `total` is None when no part says it.
    """

    numbers: frozenset[int]
    total: int | None

    @property
    def is_complete(self) -> bool:
        """Whether no part is known to be missing.

        The last part may be missing where no part says how many there are.
        """
        expected = self.total or max(self.numbers, default=0)
        # Not a set of all numbers: a header may claim billions.
        return sum(1 <= number <= expected for number in self.numbers) >= expected


def list_concatenations(headers: Sequence[InstanceHeader]) -> list[Concatenation]:
    """Return the concatenations among the instances of a series."""
    numbered: dict[str, list[tuple[int | None, int | None]]] = defaultdict(list)
    for header in headers:
        if "Concatenation" in header.extra:
            uid, number, total = header.extra["Concatenation"]
            numbered[uid].append((number, total))
    return [
        Concatenation(
            frozenset(number for number, _total in members if number),
            max((total for _number, total in members if total), default=None),
        )
        for members in numbered.values()
    ]


def concatenation_findings(series: Series) -> tuple[Finding, ...]:
    """Return a warning when parts of a concatenation are known to be missing.

    A part says its own number, and often how many there are (PS3.3 C.7.6.16.2.2.4).
    """
    for concatenation in list_concatenations([instance.header for instance in series.instances]):
        if concatenation.is_complete:
            continue
        present = ", ".join(map(str, sorted(concatenation.numbers)))
        total = f" of {concatenation.total}" if concatenation.total else ""
        message = (
            f"A concatenation lacks parts: number {present}{total} came; slices may be missing at the ends."
        )
        return (Finding("instances-missing", "warning", message, f"{present}{total}"),)
    return ()
