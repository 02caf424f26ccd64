"""Which of the site's rules a study falls under, and why not under the others.

What a rule asks of the patient (an age) is read from the files when it matters and kept nowhere.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pydicom

from dicomnode.records import IndexedInstance
from dicomnode.settings.config import RuleSettings
from dicomnode.settings.hours import is_within, parse_hours
from dicomnode.spool.opening import open_instance
from dicomnode.study.elements import read_text
from pipeline.counts import counted

_DAYS_A_YEAR = 365.25
# PatientAge is a number and D, W, M or Y (PS3.5 6.2, AS).
_YEARS_OF = {"D": 1 / _DAYS_A_YEAR, "W": 7 / _DAYS_A_YEAR, "M": 1 / 12, "Y": 1.0}
_KEYWORDS = (
    "StationName",
    "InstitutionName",
    "StudyDescription",
    "PatientAge",
    "PatientBirthDate",
    "StudyDate",
)


@dataclass(frozen=True)
class StudyFacts:
    """What rules look at, of all series of one study; texts may be empty.

    `first_received_at` is in seconds since the epoch, `age_years` None where the files do not say it.
    """

    calling_aes: tuple[str, ...]
    called_aes: tuple[str, ...]
    stations: tuple[str, ...]
    institutions: tuple[str, ...]
    body_parts: tuple[str, ...]
    study_descriptions: tuple[str, ...]
    series_descriptions: tuple[str, ...]
    age_years: float | None
    first_received_at: float


@dataclass(frozen=True)
class RuleCheck:
    """Whether a study falls under one rule; `reasons` says what is not as the rule asks."""

    name: str
    matches: bool
    reasons: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """In words, for `why` and `rules test`."""
        return "it matches" if self.matches else "; ".join(self.reasons)


@dataclass(frozen=True)
class RuleChoice:
    """The rule that a study is answered by, None where none matches, and how each rule was looked at."""

    rule: RuleSettings | None
    checks: tuple[RuleCheck, ...]

    def record(self) -> dict[str, object]:
        """Return what the ledger keeps of it; JSON types."""
        lines = [
            {"name": check.name, "matches": check.matches, "sentence": check.sentence}
            for check in self.checks
        ]
        return {"rule": self.rule.name if self.rule else None, "rules": lines}


def read_facts(instances: Sequence[IndexedInstance], root: Path) -> StudyFacts:
    """Return what rules look at.

    Of each series one file is read, and one that cannot be read says nothing.
    """
    of_series = {instance.header.SeriesInstanceUID: instance for instance in reversed(instances)}
    headers = [_read(root / instance.path) for instance in of_series.values()]

    def texts(keyword: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(header[keyword] for header in headers if keyword in header))

    return StudyFacts(
        calling_aes=_distinct(instance.calling_ae for instance in instances),
        called_aes=_distinct(instance.called_ae for instance in instances),
        stations=texts("StationName"),
        institutions=texts("InstitutionName"),
        body_parts=_distinct(instance.header.BodyPartExamined for instance in instances),
        study_descriptions=texts("StudyDescription"),
        series_descriptions=_distinct(instance.header.SeriesDescription for instance in instances),
        age_years=next((age for age in map(_age_years, headers) if age is not None), None),
        first_received_at=min((instance.received_at for instance in instances), default=0.0),
    )


def choose_rule(rules: Sequence[RuleSettings], facts: StudyFacts) -> RuleChoice:
    """Return the first rule that a study falls under, and what became of each."""
    checks = tuple(_check(rule, facts) for rule in rules)
    first = next((rule for rule, check in zip(rules, checks, strict=True) if check.matches), None)
    return RuleChoice(first, checks)


def next_begin(hours: str, now: float) -> float:
    """Return when hours of the local day begin again, in seconds since the epoch.

    That is now where the moment lies within them.
    """
    span, moment = parse_hours(hours), datetime.fromtimestamp(now).astimezone()
    if span is None or is_within(moment.time(), hours):
        return now
    begin = datetime.combine(moment.date(), span[0])
    if begin.timestamp() <= now:
        begin += timedelta(days=1)
    return begin.timestamp()


def _check(rule: RuleSettings, facts: StudyFacts) -> RuleCheck:
    reasons = tuple(_objections(rule, facts))
    return RuleCheck(rule.name, not reasons, reasons)


def _objections(rule: RuleSettings, facts: StudyFacts) -> Iterator[str]:
    for name, wanted_titles, titles in (
        ("calling_ae", rule.calling_ae, facts.calling_aes),
        ("called_ae", rule.called_ae, facts.called_aes),
    ):
        if wanted_titles and not set(wanted_titles) & set(titles):
            yield f"{name} is {_quoted(titles)}, not {_quoted(wanted_titles)}"
    for name, pattern, texts in (
        ("station", rule.station, facts.stations),
        ("institution", rule.institution, facts.institutions),
        ("body_part", rule.body_part, facts.body_parts),
        ("study_description", rule.study_description, facts.study_descriptions),
        ("series_description", rule.series_description, facts.series_descriptions),
    ):
        if pattern and not any(re.search(pattern, text, re.IGNORECASE) for text in texts):
            yield f"{name} {pattern!r} is not in {_quoted(texts)}"
    yield from _age_objections(rule, facts.age_years)
    moment = datetime.fromtimestamp(facts.first_received_at).astimezone().time()
    if not is_within(moment, rule.hours):
        yield f"its first image came at {moment:%H:%M}, outside of {rule.hours}"


def _age_objections(rule: RuleSettings, age_years: float | None) -> Iterator[str]:
    """Say which bound an age does not keep; the age itself is nobody's business."""
    low, high = rule.minimum_age, rule.maximum_age
    if low is None and high is None:
        return
    if age_years is None:
        yield "the patient's age is not known"
    elif low is not None and age_years < low:
        yield f"the patient is younger than {counted(low, 'year')}"
    elif high is not None and age_years >= high:
        yield f"the patient is {counted(high, 'year')} old or older"


def _read(path: Path) -> dict[str, str]:
    """Return the elements of a file that rules look at, those that it has."""
    try:
        # Odd values are only warned about; they count as they can be read.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_instance(path) as file:
                header = pydicom.dcmread(
                    file, stop_before_pixels=True, force=True, specific_tags=list(_KEYWORDS)
                )
            texts = {keyword: read_text(header, keyword) for keyword in _KEYWORDS}
    except Exception:  # noqa: BLE001  whatever is in a file that was listed, a rule must not stop its study
        return {}
    return {keyword: text for keyword, text in texts.items() if text}


def _age_years(header: dict[str, str]) -> float | None:
    """Return the age at the study from PatientAge, else from the dates, in years."""
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY])\s*", header.get("PatientAge", "").upper())
    if match:
        return int(match[1]) * _YEARS_OF[match[2]]
    born, studied = (_day(header.get(keyword, "")) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or studied is None or studied < born:
        return None
    return (studied - born).days / _DAYS_A_YEAR


def _day(text: str) -> date | None:
    digits = re.sub(r"[.\-/]", "", text)
    try:
        return datetime.strptime(digits, "%Y%m%d").date()  # noqa: DTZ007  a day has no zone
    except ValueError:
        return None


def _distinct(texts: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(map(repr, texts[:5])) or "absent"
