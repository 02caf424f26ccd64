"""Which series fills which role, and why: site rules, then exclusions, then contrast, then rank; a tie is never guessed.

Rank of several candidates for one role, first difference decides: usable by the checks; named by a site rule; read from
attributes rather than from the description; without contrast agent; original over derived; 3D over 2D; thinner slices;
axial before other planes (2D only); finer pixels; intensity- and distortion-corrected. Candidates that are equal in all that
and were acquired with the same protocol at different times are repeats: the last one is taken and a finding says so.
Otherwise the role stays empty with the finding "selection-ambiguous" that names both.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from dicomnode.records import Finding, InstanceHeader, Role, Selection, Series, Study
from dicomnode.settings.config import SelectionRule, SelectionSettings
from dicomnode.study.checks import NOT_A_VOLUME, check_choice, is_refused, plane_of
from dicomnode.study.contrast import read_contrast, words_of
from dicomnode.study.exclusions import find_exclusion, find_hard_exclusion, is_derived
from dicomnode.study.stacks import StackChoice, choose_stack

_AGENT_WORDS = re.compile(r"gado|\bgad\b|\bgd\b|\+ ?(c|gad|gd|km)\b|post ?(con|gad|gd)|\bkm\b|\bce\b|\bc\+")
# In the series' own description only: a protocol "without and with contrast" names all of its series.
_AGENT_DESCRIPTION = re.compile(
    r"\bpost\b(?! ?(op|surg|stroke|lysis|treat|rt\b|rx\b|tx\b|chemo|trauma))|"
    r"(?<!\bnon )(?<!\bno )(?<!\bwithout )(?<!\bwo )(?<!\bw o )(?<!\bpre )\bcontrast\b"
)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A series that may fill a role, with what ranks it; `key` sorts the better one first."""

    series: Series
    role: Role
    reason: str
    key: tuple[float, ...]
    findings: tuple[Finding, ...]

    @property
    def header(self) -> InstanceHeader:
        """Header of the first instance."""
        return self.series.instances[0].header


@dataclass(frozen=True)
class _Rejected:
    code: str
    reason: str
    near: bool


def select_series(study: Study, settings: SelectionSettings) -> Selection:
    """Choose the T1 and the FLAIR of a study; an empty role is an answer too, with its reason in the findings."""
    candidates: list[Candidate] = []
    rejected: list[_Rejected] = []
    reasons: dict[str, str] = {}
    for series in study.series:
        verdict = _judge(series, settings)
        if isinstance(verdict, Candidate):
            candidates.append(verdict)
        else:
            rejected.append(verdict)
            reasons[series.key] = f"not used: {verdict.reason}"
    roles: dict[Role, str] = {}
    findings: list[Finding] = []
    for role in ("t1", "flair"):
        _fill(role, [item for item in candidates if item.role == role], roles, reasons, findings)
    if not roles and not any(finding.grade == "refuse" for finding in findings):
        findings.append(_nothing_usable(rejected))
    return Selection(roles, reasons, tuple(findings))


def _judge(series: Series, settings: SelectionSettings) -> Candidate | _Rejected:
    hard = find_hard_exclusion(series)
    if hard is not None:
        return _Rejected(*hard, near=hard[0] == "mosaic-not-supported")
    rule = _matching_rule(series.instances[0].header, settings.rules)
    if rule is not None and rule.use == "ignore":
        return _Rejected("ignored-by-rule", "a rule of this site ignores it", near=False)
    if rule is None or rule.use == "ignore":
        return _judge_by_attributes(series, settings)
    return _candidate(series, rule.use, "a rule of this site names it", settings, (0, 0))


def _judge_by_attributes(series: Series, settings: SelectionSettings) -> Candidate | _Rejected:
    header = series.instances[0].header
    excluded = find_exclusion(series)
    if excluded is not None:
        return _Rejected(*excluded, near=excluded[0] == "wrong-body-part")
    contrast = read_contrast(header)
    if contrast.role is None:
        return _Rejected("no-usable-series", contrast.reason, near=False)
    weak = contrast.evidence in {"description", "sequence name"}
    return _candidate(series, contrast.role, contrast.reason, settings, (1, int(weak)))


def _candidate(series: Series, role: Role, reason: str, settings: SelectionSettings, evidence: tuple[int, int]) -> Candidate | _Rejected:
    choice = choose_stack(series)
    checks = check_choice(series, role, settings, choice)
    hopeless = next((finding for finding in checks if finding.grade == "refuse" and finding.code in NOT_A_VOLUME), None)
    if hopeless is not None:
        return _Rejected(hopeless.code, f"{reason}; {hopeless.message}", near=True)
    findings = _remarks(series.instances[0].header, role, weak=bool(evidence[1]))
    key = (int(is_refused(checks)), *evidence, *_quality(series.instances[0].header, choice))
    return Candidate(series, role, reason, key, findings)


def _quality(header: InstanceHeader, choice: StackChoice) -> tuple[float, ...]:
    stack = choice.stack
    volumetric = header.MRAcquisitionType == "3D"
    plane = "" if stack is None else plane_of(stack)
    types = header.ImageType
    distortion = 0 if "DIS3D" in types else 1 if "DIS2D" in types else 2
    return (
        int(_has_agent(header)),
        int(is_derived(header)),
        int(not volumetric),
        round(99.0 if stack is None else stack.spacing_mm, 1),
        0 if volumetric or plane == "axial" else 1,
        round(max(header.PixelSpacing, default=99.0), 1),
        int("NORM" not in types),
        distortion,
    )


def _remarks(header: InstanceHeader, role: Role, *, weak: bool) -> tuple[Finding, ...]:
    name = role.upper()
    findings = []
    if weak:
        message = f"The {name} was recognised by its name, because the headers do not describe the sequence."
        findings.append(Finding("contrast-from-description", "warning", message))
    if _has_agent(header):
        message = f"Only a contrast-enhanced {name} is there; the models were trained without contrast agent."
        findings.append(Finding(f"contrast-enhanced-{role}", "warning", message))
    if is_derived(header):
        findings.append(Finding("derived-series", "warning", f"The {name} series was computed from other images (reformatted)."))
    return tuple(findings)


def _fill(role: Role, candidates: list[Candidate], roles: dict[Role, str], reasons: dict[str, str], findings: list[Finding]) -> None:
    """Choose among the candidates of one role and write down why."""
    if not candidates:
        return
    ranked = sorted(candidates, key=lambda item: (item.key, item.series.SeriesInstanceUID))
    tied = [item for item in ranked if item.key == ranked[0].key]
    chosen = tied[0] if len(tied) == 1 else _last_repeat(tied)
    if chosen is None:
        findings.append(_ambiguous(role, tied))
    else:
        roles[role] = chosen.series.key
        findings.extend(chosen.findings)
        if len(tied) > 1:
            findings.append(_repeated(role, chosen, tied))
    for item in ranked:
        if item is chosen:
            said = f"used as {role.upper()}: {item.reason}"
        else:
            said = f"not used: also a {role.upper()} ({item.reason})" + (", and another ranks higher" if item not in tied else ", tied")
        reasons[item.series.key] = said


def _last_repeat(tied: list[Candidate]) -> Candidate | None:
    """Return the last of several runs of one protocol; None when they are not that, or their order is not known."""
    if len({_protocol(item.header) for item in tied}) > 1:
        return None
    times = [_acquired(item.header) for item in tied]
    if len(set(times)) < len(times) or any(not time for time in times):
        return None
    return max(tied, key=lambda item: _acquired(item.header))


def _protocol(header: InstanceHeader) -> tuple[object, ...]:
    timing = tuple(round(value or 0.0, 2) for value in (header.EchoTime, header.RepetitionTime, header.InversionTime, header.FlipAngle))
    return (timing, header.Rows, header.Columns, header.SequenceName, header.ImageType)


def _acquired(header: InstanceHeader) -> tuple[str, int] | tuple[()]:
    """Return what orders two runs in time: when they were acquired, else their Acquisition Number."""
    time = str(header.extra.get("AcquisitionDateTime", ""))
    number = header.AcquisitionNumber or 0
    return (time, number) if time or number else ()


def _ambiguous(role: Role, tied: list[Candidate]) -> Finding:
    uids = " and ".join(item.series.SeriesInstanceUID for item in tied)
    message = f"{len(tied)} series may be the {role.upper()} and nothing ranks one first: {uids}. Add a rule to [selection] that names one."
    return Finding("selection-ambiguous", "refuse", message, uids)


def _repeated(role: Role, chosen: Candidate, tied: list[Candidate]) -> Finding:
    uids = " and ".join(item.series.SeriesInstanceUID for item in tied)
    message = f"The {role.upper()} was acquired {len(tied)} times ({uids}); the last one, {chosen.series.SeriesInstanceUID}, was used."
    return Finding("repeated-series", "warning", message, uids)


def _nothing_usable(rejected: list[_Rejected]) -> Finding:
    """Name the one reason that stopped the study: that of the nearest miss, else that of every series."""
    codes = Counter(item.code for item in rejected if item.near) or Counter(item.code for item in rejected)
    code = codes.most_common(1)[0][0] if len(codes) == 1 else "no-usable-series"
    if not rejected:
        return Finding("no-usable-series", "refuse", "The study holds no readable image.")
    told = Counter(item.reason for item in rejected if item.code in codes)
    said = "; ".join(f"{reason}" + (f" ({count} series)" if count > 1 else "") for reason, count in told.most_common(5))
    return Finding(code, "refuse", f"No series can be used as T1 or FLAIR: {said.rstrip('.')}.")


def _matching_rule(header: InstanceHeader, rules: tuple[SelectionRule, ...]) -> SelectionRule | None:
    for rule in rules:
        pairs = (
            (rule.series_description, header.SeriesDescription),
            (rule.protocol_name, header.ProtocolName),
            (rule.sequence_name, header.SequenceName),
        )
        if all(re.search(pattern, text, re.IGNORECASE) for pattern, text in pairs if pattern):
            return rule
    return None


def _has_agent(header: InstanceHeader) -> bool:
    own_words = words_of(replace(header, ProtocolName=""))
    return header.ContrastBolusAgent or bool(_AGENT_WORDS.search(words_of(header)) or _AGENT_DESCRIPTION.search(own_words))
