"""Instances to series to study, and whether a study may be worked on now. Pure functions of headers and `now`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dicomnode.records import Finding, IndexedInstance, Readiness, Role, Series, Study
from dicomnode.settings.config import SelectionSettings, StudySettings
from dicomnode.study.checks import announced_count, check_series, count_findings, is_refused, regularity_findings
from dicomnode.study.choice import Selection
from dicomnode.study.selection import select_series
from dicomnode.study.stacks import choose_stack, frame_count


@dataclass(frozen=True)
class Completeness:
    """Whether a series is complete by evidence, in one sentence, and the findings behind it."""

    complete: bool
    reason: str
    findings: tuple[Finding, ...] = ()


def assemble(StudyInstanceUID: str, instances: Iterable[IndexedInstance]) -> Study:
    """Group the instances of a study into series, ordered by Series Number and UID; an instance that came twice counts once."""
    groups: dict[str, dict[str, IndexedInstance]] = defaultdict(dict)
    for instance in instances:
        groups[instance.header.SeriesInstanceUID].setdefault(instance.header.SOPInstanceUID, instance)
    series = [Series(uid, tuple(members.values())) for uid, members in groups.items()]
    return Study(StudyInstanceUID, tuple(sorted(series, key=_series_order)))


def series_completeness(series: Series, listed: int | None = None) -> Completeness:
    """Judge by evidence: no gap, equal distances, and a count that agrees: of the headers, or of what an archive lists.

    Positions alone do not do: a series that is still arriving in order has no gap either. `listed` is how many instances an archive
    lists of the series; None when it was not asked.
    """
    choice = choose_stack(series)
    if choice.stack is None:
        return Completeness(False, choice.findings[0].message, choice.findings)
    findings = (*choice.findings, *regularity_findings(choice.stack))
    broken = next((finding for finding in findings if finding.grade == "refuse"), None)
    if broken is not None:
        return Completeness(False, broken.message, findings)
    count, announced = len(choice.stack.slices), announced_count(series, choice.stack)
    if listed is not None and len(series.instances) < listed:
        return Completeness(False, f"{len(series.instances)} of {listed} images that the archive lists are there", findings)
    if announced is None and listed is None:
        return Completeness(False, f"{count} slices without a gap, but no header says how many there should be", findings)
    if announced is not None and announced > count:
        return Completeness(False, f"{count} of {announced} slices are there", findings)
    doubts = count_findings(series, choice.stack)
    if doubts:
        return Completeness(False, doubts[0].message, (*findings, *doubts))
    spacing = choice.stack.spacing_mm
    witness = "the archive lists" if announced is None else "the headers announce"
    return Completeness(True, f"{count} slices, {spacing:.2f} mm apart without a gap, as many as {witness}", findings)


def readiness(
    study: Study,
    selection_settings: SelectionSettings,
    study_settings: StudySettings,
    last_received_at: float,
    now: float,
    listed: Mapping[str, int] | None = None,
) -> Readiness:
    """Decide whether a study may be processed now.

    Parameters
    ----------
    last_received_at, now
        Seconds since the epoch.
    listed
        How many instances an archive lists per series, where it was asked.

    Returns
    -------
    Readiness
        Ready when a T1 and a FLAIR are complete by evidence and nothing came for `settle_s`; or, as it is, when nothing came
        for `quiet_s`.
    """
    selection = select_series(study, selection_settings)
    verdicts = {role: _judge(study, uid, role, selection_settings, (listed or {}).get(uid)) for role, uid in selection.roles.items()}
    evidence = _evidence(study, selection, verdicts)
    quiet_s = now - last_received_at
    complete = set(verdicts) == {"t1", "flair"} and all(verdict.complete for verdict in verdicts.values())
    if complete and quiet_s >= study_settings.settle_s:
        return Readiness(True, f"T1 and FLAIR are complete by evidence ({_sentence(verdicts)}).", None, evidence)
    if quiet_s >= study_settings.quiet_s:
        return Readiness(True, f"Nothing came for {study_settings.quiet_s:g} s; taken as it is ({_sentence(verdicts)}).", None, evidence)
    wait_s = study_settings.settle_s if complete else study_settings.quiet_s
    why = "Complete by evidence, waiting for it to settle" if complete else "Waiting for more"
    return Readiness(False, f"{why} ({_sentence(verdicts)}).", last_received_at + min(wait_s, study_settings.quiet_s), evidence)


def _series_order(series: Series) -> tuple[int, str]:
    number = series.instances[0].header.SeriesNumber
    return (2**31 if number is None else number, series.SeriesInstanceUID)


def _judge(study: Study, uid: str, role: Role, settings: SelectionSettings, listed: int | None) -> Completeness:
    series = next(item for item in study.series if item.SeriesInstanceUID == uid)
    verdict = series_completeness(series, listed)
    findings = check_series(series, role, settings)
    if verdict.complete and is_refused(findings):
        return Completeness(False, next(item.message for item in findings if item.grade == "refuse"), findings)
    return verdict


def _sentence(verdicts: dict[Role, Completeness]) -> str:
    said = [f"{role.upper()}: {verdict.reason.rstrip('.')}" for role, verdict in sorted(verdicts.items())]
    said += [f"no {role.upper()} yet" for role in ("flair", "t1") if role not in verdicts]
    return "; ".join(said)


def _evidence(study: Study, selection: Selection, verdicts: dict[Role, Completeness]) -> dict[str, Any]:
    return {
        "series": {series.SeriesInstanceUID: frame_count(series) for series in study.series},
        "roles": dict(selection.roles),
        "complete": {role: verdict.complete for role, verdict in verdicts.items()},
        "selection": dict(selection.reasons),
        "choice": selection.record(),
    }
