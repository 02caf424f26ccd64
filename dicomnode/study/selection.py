"""Which series fills which role, and why: site rules, then exclusions, then contrast, then rank.

A tie is never guessed.

The FLAIR is chosen first, then the T1 that fits it (`ranking` lists the criteria). Candidates that are equal
in all of them:

- of a T1 the earlier one is taken, and a finding says so, because a later one may be after contrast agent;
- of a FLAIR that was acquired with the same protocol at different times the last one is taken, and a finding
  says so;
- otherwise the role stays empty with the finding "selection-ambiguous" that names them.

Witnesses that contradict each other (`contrast`, `agent`) become the finding "witnesses-contradict".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dicomnode.records import Finding, InstanceHeader, Role, Series, Study
from dicomnode.settings.study import SelectionRule, SelectionSettings
from dicomnode.study.agent import AgentEvidence, acquired_at, agent_evidence, is_in_doubt
from dicomnode.study.checks import NOT_A_VOLUME, check_choice, is_refused
from dicomnode.study.choice import ChosenSeries, LosingSeries, Selection, SeriesSummary, summarise_series
from dicomnode.study.contrast import read_contrast
from dicomnode.study.exclusions import (
    find_exclusion,
    find_hard_exclusion,
    is_excluded_by_attributes,
)
from dicomnode.study.names import Names, names_in
from dicomnode.study.ranking import Reference, Standing, rank_of, why_behind
from dicomnode.study.stacks import StackChoice, choose_stack
from dicomnode.study.variants import is_denoised, is_reformatted, is_synthetic, is_uniform


@dataclass(frozen=True, eq=False)
class Candidate:
    """A series that may fill a role, with its stack, the findings of the checks, and its standing."""

    series: Series
    role: Role
    reason: str
    contradiction: str
    choice: StackChoice
    checks: tuple[Finding, ...]
    names: Names
    standing: Standing
    summary: SeriesSummary

    @property
    def header(self) -> InstanceHeader:
        """Header of the first instance."""
        return self.series.instances[0].header


@dataclass(frozen=True)
class _Rejected:
    """A series that can fill no role.

    `near` marks what is a head's image but cannot be used, `claims` what it says it is.
    """

    summary: SeriesSummary
    code: str
    reason: str
    near: bool
    claims: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Surroundings:
    """What holds for the whole study: the names and the evidence of contrast agent of every series."""

    names: Mapping[str, Names]
    agents: Mapping[str, AgentEvidence]
    settings: SelectionSettings


def select_series(study: Study, settings: SelectionSettings) -> Selection:
    """Choose the T1 and the FLAIR of a study.

    An empty role is an answer too, with its reason in the findings.
    """
    names = names_in(study)
    surroundings = _Surroundings(names, agent_evidence(study, names), settings)
    judged = [_judge(series, surroundings) for series in study.series]
    candidates = [item for item in judged if isinstance(item, Candidate)]
    rejected = [item for item in judged if isinstance(item, _Rejected)]
    by_role: dict[Role, ChosenSeries] = {}
    losing = [LosingSeries(item.summary, None, item.code, item.reason) for item in rejected]
    findings: list[Finding] = []
    reference: Reference | None = None
    for role in ("flair", "t1"):
        ranked = _rank([item for item in candidates if item.role == role], reference)
        winner, remarks = _pick(ranked)
        findings += remarks
        losing += _losers(ranked, winner)
        if winner is not None:
            by_role[role] = ChosenSeries(
                role, winner.series, winner.choice, winner.checks, winner.summary, winner.reason
            )
            findings += _remarks(winner)
            if winner.choice.stack is not None:
                reference = Reference(winner.choice.stack, winner.header.FrameOfReferenceUID)
    if by_role:
        findings += _unusable_claims(
            [role for role in ("flair", "t1") if not any(item.role == role for item in candidates)], rejected
        )
    elif not any(finding.grade == "refuse" for finding in findings):
        findings.append(_nothing_usable(rejected))
    return Selection(
        {role: by_role[role] for role in ("t1", "flair") if role in by_role}, tuple(losing), tuple(findings)
    )


def may_matter(header: InstanceHeader, settings: SelectionSettings) -> bool:
    """Return whether an instance that comes late may change the choice.

    Diffusion images, localizers, maps and the like do not, unless a rule of the site names them.
    """
    rule = _matching_rule(header, settings.rules)
    if rule is not None:
        return rule.use != "ignore"
    return not is_excluded_by_attributes(header)


def _judge(series: Series, surroundings: _Surroundings) -> Candidate | _Rejected:
    hard = find_hard_exclusion(series)
    if hard is not None:
        return _Rejected(summarise_series(series), *hard, near=hard[0] == "mosaic-not-supported")
    rule = _matching_rule(series.instances[0].header, surroundings.settings.rules)
    if rule is not None and rule.use == "ignore":
        return _Rejected(
            summarise_series(series), "ignored-by-rule", "a rule of this site ignores it", near=False
        )
    if rule is None or rule.use == "ignore":
        return _judge_by_evidence(series, surroundings)
    return _candidate(series, rule.use, "a rule of this site names it", surroundings, by_rule=True)


def _judge_by_evidence(series: Series, surroundings: _Surroundings) -> Candidate | _Rejected:
    header, names = series.instances[0].header, surroundings.names[_key(series)]
    excluded = find_exclusion(series, names)
    if excluded is not None:
        return _Rejected(summarise_series(series), *excluded, near=excluded[0] == "wrong-body-part")
    contrast = read_contrast(header, names)
    if contrast.role is None:
        code = "witnesses-contradict" if contrast.contradiction else "no-usable-series"
        claims = names.weightings if contrast.contradiction else frozenset()
        reason = contrast.contradiction or contrast.reason
        return _Rejected(
            summarise_series(series), code, reason, near=bool(contrast.contradiction), claims=claims
        )
    weak = contrast.evidence in {"description", "sequence name"}
    return _candidate(
        series, contrast.role, contrast.reason, surroundings, weak=weak, contradiction=contrast.contradiction
    )


def _candidate(
    series: Series,
    role: Role,
    reason: str,
    surroundings: _Surroundings,
    *,
    by_rule: bool = False,
    weak: bool = False,
    contradiction: str = "",
) -> Candidate | _Rejected:
    choice = choose_stack(series)
    checks = check_choice(series, role, surroundings.settings, choice)
    summary = summarise_series(series, choice)
    hopeless = next(
        (finding for finding in checks if finding.grade == "refuse" and finding.code in NOT_A_VOLUME), None
    )
    if hopeless is not None:
        return _Rejected(
            summary, hopeless.code, f"{reason}; {hopeless.message}", near=True, claims=frozenset({role})
        )
    agent = surroundings.agents[_key(series)]
    contradiction = contradiction or agent.contradiction
    standing = Standing(is_refused(checks), by_rule, bool(contradiction), weak, agent)
    return Candidate(
        series,
        role,
        reason,
        contradiction,
        choice,
        checks,
        surroundings.names[_key(series)],
        standing,
        summary,
    )


@dataclass(frozen=True, eq=False)
class _Ranked:
    candidate: Candidate
    key: tuple[float, ...]


def _rank(candidates: list[Candidate], reference: Reference | None) -> list[_Ranked]:
    ranked = [
        _Ranked(
            item, rank_of(item.header, item.role, item.choice.stack, item.names, item.standing, reference)
        )
        for item in candidates
    ]
    return sorted(ranked, key=lambda item: (item.key, _key(item.candidate.series)))


def _pick(ranked: list[_Ranked]) -> tuple[Candidate | None, list[Finding]]:
    """Return the best candidate and what is to be said about how it was picked.

    The candidate is None when nothing ranks one first.
    """
    if not ranked:
        return None, []
    tied = [item.candidate for item in ranked if item.key == ranked[0].key]
    if len(tied) == 1:
        return tied[0], []
    ordered = _in_time(tied)
    if ordered is None:
        return None, [_ambiguous(tied)]
    if tied[0].role == "t1" and is_in_doubt(item.standing.agent for item in tied):
        return ordered[0], [_earlier_of(ordered)]
    if len({_protocol(item.header) for item in tied}) == 1:
        return ordered[-1], [_last_of(ordered)]
    return None, [_ambiguous(tied)]


def _in_time(tied: list[Candidate]) -> list[Candidate] | None:
    """Return runs in the order of their acquisition; None when that is not known."""
    for moment in (acquired_at, lambda header: header.AcquisitionNumber or 0):
        moments = [moment(item.header) for item in tied]
        if all(moments) and len(set(moments)) == len(moments):
            return [item for _, item in sorted(zip(moments, tied, strict=True), key=lambda pair: pair[0])]
    return None


def _protocol(header: InstanceHeader) -> tuple[object, ...]:
    timing = tuple(
        round(value or 0.0, 2)
        for value in (header.EchoTime, header.RepetitionTime, header.InversionTime, header.FlipAngle)
    )
    return (timing, header.Rows, header.Columns, header.SequenceName, header.ImageType)


def _losers(ranked: list[_Ranked], winner: Candidate | None) -> list[LosingSeries]:
    losers = []
    best = ranked[0].key if ranked else ()
    for item in ranked:
        candidate, behind = item.candidate, why_behind(item.key, best)
        if candidate is winner:
            continue
        role = candidate.role.upper()
        if winner is None:
            code, reason = "tied", f"also a {role} ({candidate.reason}), and nothing ranks one first"
        else:
            why = behind or "is equal to it and was acquired at another time"
            code, reason = (
                "ranks-lower",
                (
                    f"also a {role} ({candidate.reason}), but {winner.summary.name} ranks higher, because "
                    f"this one {why}"
                ),
            )
        losers.append(LosingSeries(candidate.summary, candidate.role, code, reason))
    return losers


def _remarks(candidate: Candidate) -> list[Finding]:
    """Return what the reader of the result should know about the series that is used."""
    header, role, name = candidate.header, candidate.role, candidate.role.upper()
    concepts, standing = candidate.names.all_concepts, candidate.standing
    remarks = []
    if candidate.contradiction:
        message = (
            f"The {name}, {candidate.summary.name}, is used although its witnesses contradict "
            f"each other: {candidate.contradiction}."
        )
        remarks.append(("witnesses-contradict", message))
    if standing.is_weak:
        remarks.append(
            (
                "contrast-from-description",
                f"The {name} was recognised by its name, because the headers do not describe the sequence.",
            )
        )
    if standing.agent.is_given:
        message = f"Only a contrast-enhanced {name} is there; the models were trained without contrast agent."
        remarks.append((f"contrast-enhanced-{role}", message))
    elif standing.agent.follows and standing.agent.words != "without":
        message = (
            f"The {name} was acquired later than a series with contrast agent and may be "
            "contrast-enhanced itself."
        )
        remarks.append((f"contrast-enhanced-{role}", message))
    if is_synthetic(header, concepts):
        remarks.append(
            (
                "synthetic-series",
                f"The {name} is a synthetic image; the models were trained on acquired ones.",
            )
        )
    if is_reformatted(header, concepts):
        remarks.append(("derived-series", f"The {name} series was computed from other images (reformatted)."))
    if is_uniform(header, concepts) and not is_denoised(header, concepts):
        remarks.append(
            ("uniform-image", f"The {name} is the uniform image of an MP2RAGE, whose background is noise.")
        )
    return [Finding(code, "warning", message) for code, message in remarks]


def _unusable_claims(empty_roles: list[Role], rejected: list[_Rejected]) -> list[Finding]:
    """Return the finding for each role that stays empty although a series has, or claims, that contrast.

    Without the FLAIR of a study nothing may be called absent, so that its finding has the grade that forbids
    it.
    """
    findings = []
    for role in empty_roles:
        claiming = [item for item in rejected if role in item.claims]
        if claiming:
            listed = "; ".join(f"{item.summary.name}: {item.reason.rstrip('.')}" for item in claiming[:3])
            code = (
                "witnesses-contradict"
                if any(item.code == "witnesses-contradict" for item in claiming)
                else f"{role}-not-usable"
            )
            message = (
                f"No {role.upper()} was used, although the study has a series that may be one: {listed}."
            )
            findings.append(Finding(code, "refuse" if role == "flair" else "warning", message))
    return findings


def _ambiguous(tied: list[Candidate]) -> Finding:
    uids = " and ".join(_key(item.series) for item in tied)
    role = tied[0].role.upper()
    message = (
        f"{len(tied)} series may be the {role} and nothing ranks one first: {uids}. Add a "
        "rule to [selection] that names one."
    )
    return Finding("selection-ambiguous", "refuse", message, uids)


def _last_of(ordered: list[Candidate]) -> Finding:
    uids = " and ".join(_key(item.series) for item in ordered)
    last = ordered[-1]
    message = (
        f"The {last.role.upper()} was acquired {len(ordered)} times ({uids}); the last one, "
        f"{last.summary.name}, was used."
    )
    return Finding("repeated-series", "warning", message, uids)


def _earlier_of(ordered: list[Candidate]) -> Finding:
    uids = " and ".join(_key(item.series) for item in ordered)
    names = " and ".join(item.summary.name for item in ordered)
    message = (
        f"{len(ordered)} series are equal as T1 ({names}); the earliest was used, because a "
        "later one may be after contrast agent."
    )
    return Finding("earlier-of-equal-series", "warning", message, uids)


def _nothing_usable(rejected: list[_Rejected]) -> Finding:
    """Name the one reason that stopped the study: that of the nearest miss, else that of every series."""
    codes = Counter(item.code for item in rejected if item.near) or Counter(item.code for item in rejected)
    code = codes.most_common(1)[0][0] if len(codes) == 1 else "no-usable-series"
    if not rejected:
        return Finding("no-usable-series", "refuse", "The study holds no readable image.")
    reasons = Counter(item.reason for item in rejected if item.code in codes)
    listed = "; ".join(
        f"{reason}" + (f" ({count} series)" if count > 1 else "") for reason, count in reasons.most_common(5)
    )
    return Finding(code, "refuse", f"No series can be used as T1 or FLAIR: {listed.rstrip('.')}.")


def _key(series: Series) -> str:
    return series.key


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
