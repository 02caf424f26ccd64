"""The choice made visible: which series fills which role, which candidates lost, and why, each in a sentence.

`Selection` carries the chosen series itself with its stack and its findings, so that nobody looks them up or
works them out again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dicomnode.records import Finding, Role, Series
from dicomnode.study.agent import acquired_at
from dicomnode.study.checks import plane_of
from dicomnode.study.stacks import StackChoice
from pipeline.counts import counted


@dataclass(frozen=True)
class SeriesSummary:
    """What a reader needs to find a series again: number, description, time, plane and extent.

    Empty where not known.
    """

    SeriesInstanceUID: str
    SeriesNumber: int | None
    SeriesDescription: str
    acquired: str
    plane: str
    spacing_mm: float | None
    slice_count: int
    stack_number: int = 0

    @property
    def name(self) -> str:
        """The series in few words: 'series 3 "T1 3D"', or its UID where it has no number.

        Of a series that holds several stacks, also which of them: 'stack 2 of series 3 "T1 3D"'.
        """
        # The key of a stack is the UID of its series, a slash and its number.
        number = self.SeriesInstanceUID.partition("/")[0] if self.SeriesNumber is None else self.SeriesNumber
        series = (
            f'series {number} "{self.SeriesDescription}"' if self.SeriesDescription else f"series {number}"
        )
        return f"stack {self.stack_number} of {series}" if self.stack_number else series

    @property
    def sentence(self) -> str:
        """The series with its time, plane and extent.

        'series 3 "T1 3D" of 2024-05-06 10:00:00, axial, 48 slices, 3.00 mm apart'.
        """
        apart = "" if self.spacing_mm is None else f", {self.spacing_mm:.2f} mm apart"
        time = f" of {self.acquired}" if self.acquired else ""
        plane = f", {self.plane}" if self.plane else ""
        return f"{self.name}{time}{plane}, {counted(self.slice_count, 'slice')}{apart}"


@dataclass(frozen=True, eq=False)
class ChosenSeries:
    """The series that fills a role, with its stack, what the checks found on it, and why it was chosen."""

    role: Role
    series: Series
    choice: StackChoice
    findings: tuple[Finding, ...]
    summary: SeriesSummary
    reason: str


@dataclass(frozen=True)
class LosingSeries:
    """A series that fills no role, and the reason in a sentence.

    `role` is the one that it could have filled.
    """

    summary: SeriesSummary
    role: Role | None
    code: str
    reason: str


@dataclass(frozen=True, eq=False)
class Selection:
    """The outcome of selection.

    The chosen series, every other one with its reason, and the findings of the choice.
    """

    by_role: Mapping[Role, ChosenSeries]
    losing: tuple[LosingSeries, ...]
    findings: tuple[Finding, ...]

    @property
    def roles(self) -> dict[Role, str]:
        """Role -> Series Instance UID."""
        return {role: selected.series.key for role, selected in self.by_role.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Series Instance UID -> the sentence why it is used or not."""
        reasons = {losing.summary.SeriesInstanceUID: f"not used: {losing.reason}" for losing in self.losing}
        for role, selected in self.by_role.items():
            reasons[selected.series.key] = f"used as {role.upper()}: {selected.reason}"
        return reasons

    def sentences(self) -> tuple[str, ...]:
        """Return the choice for people, a sentence a series, used ones first."""
        in_use = [
            f"Used as {role.upper()}: {selected.summary.sentence}." for role, selected in self.by_role.items()
        ]
        return (
            *in_use,
            *(f"Not used: {losing.summary.name}: {losing.reason.rstrip('.')}." for losing in self.losing),
        )

    def findings_of_use(self, roles_used: Collection[Role]) -> tuple[Finding, ...]:
        """Return the choice as findings of a report.

        The series that were used, and every candidate that lost, with its reason.

        `roles_used` are the roles that the networks took; a series that was chosen and not taken is among the
        losing ones.
        """
        findings = []
        for role, selected in self.by_role.items():
            if role in roles_used:
                findings.append(
                    Finding("series-used", "info", f"The {role.upper()} is {selected.summary.sentence}.")
                )
            else:
                message = f"The {role.upper()}, {selected.summary.sentence}, was not used for the lesions."
                findings.append(Finding("series-not-used", "info", message))
        lost = [losing for losing in self.losing if losing.role is not None]
        messages = [f"Not used: {losing.summary.sentence}: {losing.reason.rstrip('.')}." for losing in lost]
        return (*findings, *(Finding("series-not-used", "info", message) for message in messages))

    def record(self) -> list[dict[str, Any]]:
        """Return the choice as JSON values, a row a series.

        What `status`, `why`, pages and `answer.json` show.
        """
        in_use = [
            _row(selected.summary, role, "used", selected.reason) for role, selected in self.by_role.items()
        ]
        return [
            *in_use,
            *(
                _row(losing.summary, losing.role, "not used", losing.reason, losing.code)
                for losing in self.losing
            ),
        ]


def summarise_series(series: Series, choice: StackChoice | None = None) -> SeriesSummary:
    """Return the summary of a series; plane and spacing are those of its stack, where it has one."""
    header = series.instances[0].header
    stack = None if choice is None else choice.stack
    return SeriesSummary(
        SeriesInstanceUID=series.key,
        SeriesNumber=header.SeriesNumber,
        SeriesDescription=header.SeriesDescription,
        acquired=_readable_time(acquired_at(header)),
        plane="" if stack is None else plane_of(stack),
        spacing_mm=None if stack is None else round(stack.spacing_mm, 3),
        slice_count=len(stack.slices)
        if stack is not None
        else sum(max(1, item.header.NumberOfFrames) for item in series.instances),
        stack_number=series.stack_number,
    )


def _row(summary: SeriesSummary, role: Role | None, use: str, reason: str, code: str = "") -> dict[str, Any]:
    return {**vars(summary), "role": role, "use": use, "reason": reason, "code": code}


def _readable_time(stamp: str) -> str:
    """Return YYYY-MM-DD HH:MM:SS of a DICOM date and time, as far as it goes."""
    digits = stamp.partition(".")[0]
    if len(digits) < 8 or not digits.isdigit():
        return ""
    date, time = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}", digits[8:14]
    clock = ":".join(time[start : start + 2] for start in range(0, len(time), 2))
    return f"{date} {clock}".strip()
