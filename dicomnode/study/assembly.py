"""Instances to series to study, and whether a study may be worked on now.

Pure functions of headers and `now`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dicomnode.records import (
    Finding,
    IndexedInstance,
    Readiness,
    Role,
    SenderHabits,
    Series,
    Study,
)
from dicomnode.settings.config import SelectionSettings, StudySettings
from dicomnode.study.checks import (
    announced_count,
    count_findings,
    is_refused,
    plane_of,
    regularity_findings,
    stray_count,
)
from dicomnode.study.choice import ChosenSeries, Selection
from dicomnode.study.concatenations import concatenation_findings
from dicomnode.study.joining import join_series
from dicomnode.study.patience import Judgement, decide
from dicomnode.study.selection import select_series
from dicomnode.study.splitting import split_series
from dicomnode.study.stacks import StackChoice, choose_stack, frame_count
from pipeline.counts import counted

UNKNOWN_SENDERS = SenderHabits()
"""Nothing is known of the senders: only counts and the clock decide."""

HEAD_MM = {"axial": 110.0, "sagittal": 120.0, "coronal": 150.0}
"""So far the slices of a whole head reach along their normal, at least."""


@dataclass(frozen=True)
class Completeness:
    """Whether a series is complete by evidence, in one sentence, and the findings behind it.

    `whole` says of one that no count speaks for: no gap, and a whole head is covered.
    """

    complete: bool
    reason: str
    findings: tuple[Finding, ...] = ()
    whole: bool = False


def assemble(StudyInstanceUID: str, instances: Iterable[IndexedInstance]) -> Study:
    """Group the instances of a study into series, ordered by Series Number and UID.

    An instance that came twice counts once.

    A series that holds several stacks becomes one `Series` for each, and series that are one stack become
    one.
    """
    groups: dict[str, dict[str, IndexedInstance]] = defaultdict(dict)
    for instance in instances:
        groups[instance.header.SeriesInstanceUID].setdefault(instance.header.SOPInstanceUID, instance)
    series = [Series(uid, tuple(members.values())) for uid, members in groups.items()]
    stacks = [stack for item in sorted(series, key=_series_order) for stack in split_series(item)]
    return Study(StudyInstanceUID, join_series(stacks))


def series_completeness(
    series: Series, listed: int | None = None, choice: StackChoice | None = None
) -> Completeness:
    """Judge by evidence: no gap, equal distances, and a count that agrees.

    Of the headers, or of what an archive lists.

    Positions alone do not do: a series that is still arriving in order has no gap either. `listed` is how
    many instances an archive lists of the series; None when it was not asked. `choice` is the stack of the
    series, where it was chosen before.
    """
    choice = choose_stack(series) if choice is None else choice
    if choice.stack is None:
        return Completeness(False, choice.findings[0].message, choice.findings)
    findings = (*choice.findings, *regularity_findings(choice.stack))
    broken = next((finding for finding in findings if finding.grade == "refuse"), None)
    if broken is not None:
        return Completeness(False, broken.message, findings)
    missing_parts = concatenation_findings(series)
    if missing_parts:
        return Completeness(False, missing_parts[0].message, (*findings, *missing_parts))
    count, announced = len(choice.stack.slices), announced_count(series, choice.stack)
    if listed is not None and len(series.instances) + stray_count(series) < listed:
        subject = counted(listed, "image that the archive lists is", "images that the archive lists are")
        reason = f"{len(series.instances) + stray_count(series)} of {subject} there"
        return Completeness(False, reason, findings)
    doubts = count_findings(series, choice.stack)
    if announced is None and listed is None:
        return Completeness(
            False,
            f"{counted(count, 'slice')} without a gap, but no header says how many there should be",
            findings,
            whole=not doubts and choice.stack.coverage_mm >= HEAD_MM[plane_of(choice.stack)],
        )
    if announced is not None and announced > count:
        return Completeness(
            False, f"{count} of {counted(announced, 'slice is', 'slices are')} there", findings
        )
    if doubts:
        return Completeness(False, doubts[0].message, (*findings, *doubts))
    spacing = choice.stack.spacing_mm
    witness = "the archive lists" if announced is None else "the headers announce"
    return Completeness(
        True,
        f"{counted(count, 'slice')}, {spacing:.2f} mm apart without a gap, as many as {witness}",
        findings,
    )


def judge_study(
    study: Study, selection_settings: SelectionSettings, listed: Mapping[str, int] | None = None
) -> Judgement:
    """Return what the headers of a study show of its completeness, whatever the time.

    Parameters
    ----------
    listed
        How many instances an archive lists per series, where it was asked.
    """
    selection = select_series(study, selection_settings)
    verdicts = {role: _judge(selected, listed or {}) for role, selected in selection.by_role.items()}
    return Judgement(
        roles=frozenset(verdicts),
        is_counted=set(verdicts) == {"t1", "flair"}
        and all(verdict.complete for verdict in verdicts.values()),
        is_whole=bool(verdicts) and all(verdict.complete or verdict.whole for verdict in verdicts.values()),
        sentence=_sentence(verdicts),
        acquired=max(
            (_acquired(instance) for series in study.series for instance in series.instances), default=""
        ),
        evidence=_evidence(study, selection, verdicts),
    )


def readiness(
    study: Study,
    selection_settings: SelectionSettings,
    study_settings: StudySettings,
    last_received_at: float,
    now: float,
    listed: Mapping[str, int] | None = None,
    senders: SenderHabits = UNKNOWN_SENDERS,
) -> Readiness:
    """Decide whether a study may be processed now: `judge_study`, then `patience.decide`.

    Parameters
    ----------
    last_received_at, now
        Seconds since the epoch.
    listed
        How many instances an archive lists per series, where it was asked.
    senders
        What the senders of the study let one conclude.
    """
    judgement = judge_study(study, selection_settings, listed)
    return decide(judgement, study_settings, senders, last_received_at, now)


def _series_order(series: Series) -> tuple[int, str]:
    number = series.instances[0].header.SeriesNumber
    return (2**31 if number is None else number, series.SeriesInstanceUID)


def _judge(selected: ChosenSeries, listed: Mapping[str, int]) -> Completeness:
    series = selected.series
    # An archive lists whole series: where a series holds several stacks, its count says nothing of one of
    # them.
    counts = (
        []
        if series.stack_number
        else [listed.get(uid) for uid in series.joined or (series.SeriesInstanceUID,)]
    )
    numbers = [count for count in counts if count is not None]
    verdict = series_completeness(
        series, sum(numbers) if numbers and len(numbers) == len(counts) else None, selected.choice
    )
    if (verdict.complete or verdict.whole) and is_refused(selected.findings):
        return Completeness(
            False,
            next(item.message for item in selected.findings if item.grade == "refuse"),
            selected.findings,
        )
    return verdict


def _acquired(instance: IndexedInstance) -> str:
    return (
        str(instance.header.extra.get("AcquisitionDateTime", "")) if instance.header.Modality == "MR" else ""
    )


def _sentence(verdicts: dict[Role, Completeness]) -> str:
    reasons = [f"{role.upper()}: {verdict.reason.rstrip('.')}" for role, verdict in sorted(verdicts.items())]
    reasons += [f"no {role.upper()} yet" for role in ("flair", "t1") if role not in verdicts]
    return "; ".join(reasons)


def _evidence(study: Study, selection: Selection, verdicts: dict[Role, Completeness]) -> dict[str, Any]:
    return {
        "series": {series.key: frame_count(series) for series in study.series},
        "roles": dict(selection.roles),
        "complete": {role: verdict.complete for role, verdict in verdicts.items()},
        "whole": {role: verdict.complete or verdict.whole for role, verdict in verdicts.items()},
        "selection": dict(selection.reasons),
        "choice": selection.record(),
    }
