"""The images of one study: its series chosen, checked, and turned into volumes.

Rules for this file:
1. What cannot be used is refused with its reason, or left out with a finding that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicomnode.errors import StudyRefused
from dicomnode.records import Finding, IndexedInstance, Role, SetAside, SourceSeries
from dicomnode.settings.config import Config
from dicomnode.study.assembly import assemble
from dicomnode.study.choice import ChosenSeries, Selection
from dicomnode.study.person import check_one_person, one_of_each_identity
from dicomnode.study.selection import select_series
from dicomnode.volumes.load import load_volume
from dicomnode.volumes.pixels import Headers
from pipeline.counts import counted
from pipeline.records import Volume


@dataclass(frozen=True)
class LoadedStudy:
    """The volumes that will be segmented and where they came from, reference role first."""

    volumes: Mapping[Role, Volume]
    sources: tuple[SourceSeries, ...]
    findings: tuple[Finding, ...]
    selection: Selection
    headers: Headers = field(default_factory=dict)
    """What stood before the pixels in each file that was loaded."""


def load_study(
    StudyInstanceUID: str,
    instances: Sequence[IndexedInstance],
    set_aside: Sequence[SetAside],
    config: Config,
    work_dir: Path,
) -> LoadedStudy:
    """Choose the series, check them and turn them into volumes.

    `set_aside` are the study's images that could not be read; `work_dir` is empty and may be removed after.

    Raises
    ------
    StudyRefused
        No series can be used, or T1 and FLAIR are of different people. When only one of two roles fails, the
        other is used and a finding says so.
    """
    if not instances:
        raise _nothing_readable(set_aside)
    study = assemble(StudyInstanceUID, instances)
    selection = select_series(study, config.selection)
    spool = config.storage.spool
    check_one_person(
        (spool / path for path in one_of_each_identity(instances)), "The images of the study are"
    )
    findings = [*selection.findings, *_unreadable_findings(set_aside)]
    volumes: dict[Role, Volume] = {}
    sources: list[SourceSeries] = []
    headers: Headers = {}
    refusals: list[StudyRefused] = []
    for role in _reference_first(selection.roles):
        try:
            volume, source, remarks = _load_role(selection.by_role[role], spool, work_dir, headers)
        except StudyRefused as refusal:
            refusals.append(refusal)
            # Of this grade, so that no report claims the absence of lesions or that every algorithm
            # succeeded.
            findings.append(
                Finding(refusal.code, "refuse", f"The {role.upper()} series was not used: {refusal}")
            )
            continue
        volumes[role] = volume
        sources.append(source)
        findings.extend(remarks)
    if not volumes:
        raise refusals[0] if refusals else _nothing_selected(selection)
    return LoadedStudy(volumes, tuple(sources), tuple(findings), selection, headers)


def _reference_first(roles: Mapping[Role, str]) -> list[Role]:
    order: tuple[Role, ...] = ("flair", "t1")
    return [role for role in order if role in roles]


def _load_role(
    series_choice: ChosenSeries, spool: Path, work_dir: Path, headers: Headers
) -> tuple[Volume, SourceSeries, tuple[Finding, ...]]:
    for finding in series_choice.findings:
        if finding.grade == "refuse":
            raise StudyRefused(finding.message, code=finding.code)
    volume, source, remarks = load_volume(
        series_choice.series,
        series_choice.role,
        spool,
        work_dir,
        series_choice.choice,
        headers,
    )
    return volume, source, (*series_choice.findings, *remarks)


def _nothing_selected(selection: Selection) -> StudyRefused:
    for finding in selection.findings:
        if finding.grade == "refuse":
            return StudyRefused(finding.message, code=finding.code)
    return StudyRefused(
        "The study has no series that can be used as T1 or FLAIR; send a brain T1 or FLAIR series.",
        code="no-usable-series",
    )


def _nothing_readable(set_aside: Sequence[SetAside]) -> StudyRefused:
    code, _, sentence = set_aside[0].reason.partition(": ")
    message = (
        f"The only image of the study cannot be read: {sentence}; send it again."
        if len(set_aside) == 1
        else f"None of the {len(set_aside)} images of the study can be read: {sentence}; send them again."
    )
    return StudyRefused(message, code=code)


def _unreadable_findings(set_aside: Sequence[SetAside]) -> tuple[Finding, ...]:
    if not set_aside:
        return ()
    sentence = set_aside[0].reason.partition(": ")[2]
    subject = counted(
        len(set_aside),
        "image of the study could not be read and was left out",
        "images of the study could not be read and were left out",
    )
    message = f"{subject} ({sentence}); send {'it' if len(set_aside) == 1 else 'them'} again."
    return (Finding("instances-unreadable", "warning", message, str(len(set_aside))),)
