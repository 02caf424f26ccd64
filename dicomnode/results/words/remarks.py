"""Remarks on the images, sorted by what a reader does with them: quality, series, or technique."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dicomnode.results.words.language import (
    begin_sentence,
    has_phrase,
    phrase,
    write_date,
    write_number,
)
from dicomnode.results.words.sentences import Findings, plain_ascii
from dicomnode.settings.config import Language
from pipeline.records import Finding

_SERIES = frozenset({"series-used", "series-not-used"})
# Of grade info, and yet they change what one may conclude.
_CHANGES_CONCLUSIONS = frozenset({"thick-slices", "no-t1"})
_SEVERITY = {"refuse": 0, "warning": 1, "info": 2}
_IMAGE = re.compile(r"\b(FLAIR|T1)\b")
# The sentence of `dicomnode.study.choice.SeriesSummary`; a test holds both together.
_SERIES_SENTENCE = re.compile(
    r"The (?P<image>FLAIR|T1) is (?:stack (?P<stack>\d+) of )?series "
    r'(?P<name>\S+(?: ".*?")?)(?: of (?P<date>\d{4}-\d\d-\d\d)[^,]*)?'
    r"(?:, (?P<plane>axial|sagittal|coronal|oblique))?, (?P<count>\d+) slices"
    r"(?:, (?P<spacing>[\d.]+) mm apart)?\."
)


def quality_remarks(findings: Findings, language: Language) -> list[str]:
    """Return what limits the conclusions, most severe first, each sentence once."""
    ordered = sorted(findings, key=lambda finding: _SEVERITY[finding.grade])
    return list(dict.fromkeys(say_remark(finding, language) for finding in ordered if _is_quality(finding)))


def series_remarks(findings: Findings, language: Language) -> list[str]:
    """Return which series were used, and which were not."""
    chosen = [finding for finding in findings if finding.code in _SERIES]
    return list(dict.fromkeys(_say_series(finding, language) for finding in chosen))


def technical_remarks(findings: Findings, language: Language) -> list[str]:
    """Return what was noticed and changes no conclusion, and the values behind the other remarks."""
    minor = [
        say_remark(finding, language)
        for finding in findings
        if finding.code not in _SERIES and not _is_quality(finding)
    ]
    values = dict.fromkeys(
        f"{finding.code} {plain_ascii(finding.value)}"
        for finding in findings
        if finding.value and finding.value not in finding.message
    )
    if values:
        minor.append(phrase("technique.values", language, values="; ".join(values)))
    return list(dict.fromkeys(minor))


def say_remark(finding: Finding, language: Language) -> str:
    """Return one remark: in English its own sentence, else that of the table; its own where there is none."""
    message = begin_sentence(plain_ascii(finding.message))
    key = f"remark.{finding.code}"
    if language == "en" or not has_phrase(key, language):
        return message
    image = _IMAGE.search(finding.message)
    value = plain_ascii(finding.value)
    return phrase(key, language, image=image.group() if image else "T1/FLAIR", value=value or "-")


def say_refusal(
    code: str, sentence: str, findings: Findings, opening: str, language: Language
) -> tuple[str, ...]:
    """Return what is said of a study without a segmentation.

    Parameters
    ----------
    code, sentence
        Stable kebab-case reason, and one sentence that says what is wrong and what to do.
    opening
        The row that says what became of the study: "refused" or "failed".
    """
    details = phrase("refusal.details", language, sentence=sentence)
    reason = say_remark(Finding(code, "refuse", sentence), language)
    return (
        phrase(f"refusal.{opening}", language),
        *([reason] if reason != plain_ascii(sentence) and language != "en" else []),
        details,
        phrase("refusal.reason-code", language, code=code),
        *quality_remarks(findings, language),
        *series_remarks(findings, language),
        *technical_remarks(findings, language),
    )


def _is_quality(finding: Finding) -> bool:
    return finding.code not in _SERIES and (finding.grade != "info" or finding.code in _CHANGES_CONCLUSIONS)


def _say_series(finding: Finding, language: Language) -> str:
    """Return a series as one reads it: image, name, date, plane, slices and their distance."""
    match = _SERIES_SENTENCE.fullmatch(plain_ascii(finding.message))
    if match is None:
        return say_remark(finding, language)
    series = phrase("series.series", language, name=match["name"])
    if match["stack"]:
        series = phrase("series.stack", language, number=match["stack"], series=series)
    words: Sequence[str] = [
        series,
        *(
            [phrase("series.acquired", language, date=write_date(match["date"], language))]
            if match["date"]
            else []
        ),
        *([phrase(f"series.{match['plane']}", language)] if match["plane"] else []),
        phrase("series.slices", language, count=match["count"]),
        *(
            [phrase("series.spacing", language, value=write_number(float(match["spacing"]), 1, language))]
            if match["spacing"]
            else []
        ),
    ]
    return phrase("series.used", language, image=match["image"], series=", ".join(words))
