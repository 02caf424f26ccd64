"""An answer in words, in the order in which one reads it; report, page and pictures show these and no others.

Impression, table of lesions, what limits the conclusions, technique, series, limits. Every word comes from
the table of sentences; numbers are those of the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicomnode.results.words.language import (
    begin_sentence,
    join_words,
    phrase,
    write_date,
    write_ml,
    write_number,
    write_percent,
    write_round_ml,
)
from dicomnode.results.words.measured import relative_signals
from dicomnode.results.words.places import (
    describe_lesion,
    describe_place,
    measured_ml,
    write_regions,
    write_side,
)
from dicomnode.results.words.remarks import quality_remarks, series_remarks, technical_remarks
from dicomnode.results.words.sentences import Findings, describe_point, may_claim_absence, plain_ascii
from dicomnode.settings.config import Language
from pipeline.records import Lesion, LesionChange, PipelineResult

_ALL_NAMED = 4
_LARGEST_NAMED = 3
_CENTRES = 12
_MOST_TERRITORIES = 3


@dataclass(frozen=True)
class LesionRow:
    """One lesion in the table; every cell is text, empty where nothing is known."""

    number: str
    side: str
    region: str
    volume: str
    long_axis: str
    signal: str
    change: str
    certainty: str
    territory: str


@dataclass(frozen=True)
class Narrative:
    """What is said of a result.

    Attributes
    ----------
    impression
        One or two sentences: the finding, and what is new since an earlier study.
    rows, sentences
        The table of lesions by cells and, for reports without tables, by sentences; the sentences end with
        the total and with earlier lesions that are not there today.
    quality
        Remarks that change what one may conclude.
    """

    language: Language
    impression: str
    rows: tuple[LesionRow, ...]
    sentences: tuple[str, ...]
    quality: tuple[str, ...]
    technique: tuple[str, ...]
    series: tuple[str, ...]
    limits: tuple[str, ...]

    @property
    def every_sentence(self) -> tuple[str, ...]:
        """All of it, in order."""
        return (
            *(self.impression, *self.sentences, *self.quality),
            *(*self.technique, *self.series, *self.limits),
        )


def narrate(
    result: PipelineResult,
    findings: Findings,
    language: Language,
    technique: Mapping[str, str],
    segments: Sequence[Sequence[Lesion]] = (),
) -> Narrative:
    """Return what is said of a result.

    Parameters
    ----------
    technique
        The lesion network's name and version, and the parameters that it ran with.
    segments
        The lesions of each segment, in order; lesions that share one are summed up in one sentence.
    """
    single = [group[0] for group in segments if len(group) == 1]
    merged = next((group for group in segments if len(group) > 1), ())
    return Narrative(
        language,
        state_impression(result, findings, language),
        tuple(_row(lesion, result, language) for lesion in result.lesions),
        (
            *(_row_sentence(lesion, result, language) for lesion in single),
            *([_merged_sentence(merged, language)] if merged else []),
            *_total_sentences(result, language),
            *_earlier_sentences(result, language),
        ),
        tuple(quality_remarks(findings, language)),
        (*_describe_technique(result, technique, language), *technical_remarks(findings, language)),
        tuple(series_remarks(findings, language)),
        (
            f"{phrase('limits.warning', language)} {phrase('limits.unverified', language)}",
            plain_ascii(result.plan.lesion.model.statement),
        ),
    )


def state_impression(result: PipelineResult, findings: Findings, language: Language) -> str:
    """Return the finding in one or two sentences."""
    return " ".join([_state_lesions(result, findings, language), *_state_changes(result, language)])


def _state_lesions(result: PipelineResult, findings: Findings, language: Language) -> str:
    if not result.lesions:
        row = "none" if may_claim_absence(result.used, findings) else "undetermined"
        return phrase(f"impression.{row}", language)
    if len(result.lesions) <= _ALL_NAMED:
        named = [describe_lesion(lesion, language) for lesion in result.lesions]
        return begin_sentence(f"{', '.join(named)}.")
    named = [describe_lesion(lesion, language) for lesion in result.lesions[:_LARGEST_NAMED]]
    return phrase(
        "impression.many",
        language,
        count=len(result.lesions),
        volume=write_round_ml(_value(result, "total_volume"), language),
        lesions=", ".join(named),
    )


def _state_changes(result: PipelineResult, language: Language) -> list[str]:
    """Return what is new, larger, smaller and gone since the earlier study; nothing without one."""
    if result.follow_up is None:
        return []
    changes = result.follow_up.changes
    date = write_date(result.follow_up.date, language)
    undated = "" if date else "-undated"
    numbers = {kind: _numbers(changes, kind, language) for kind in ("new", "grown", "shrunk")}
    row = "impression.new" if numbers["new"] else "impression.new-none"
    sentences = [phrase(f"{row}{undated}", language, date=date, numbers=numbers["new"])]
    sentences += [
        phrase(f"impression.{kind}", language, numbers=numbers[kind])
        for kind in ("grown", "shrunk")
        if numbers[kind]
    ]
    for kind, name in (("gone", "gone"), ("not imaged", "not-imaged")):
        count = sum(change.kind == kind and change.label is None for change in changes)
        sentences += [phrase(f"impression.{name}", language, count=count)] if count else []
    return sentences


def _numbers(changes: Sequence[LesionChange], kind: str, language: Language) -> str:
    labels = [str(change.label) for change in changes if change.kind == kind and change.label is not None]
    return join_words(labels, language)


def _row(lesion: Lesion, result: PipelineResult, language: Language) -> LesionRow:
    signals = relative_signals(lesion.measurements)
    return LesionRow(
        number=str(lesion.label),
        side=write_side(lesion, language) or phrase("side-column.unknown", language),
        region=write_regions(lesion, language),
        volume=write_ml(measured_ml(lesion), language),
        long_axis=f"{write_number(lesion.long_axis.length_mm, 1, language)} mm",
        signal=", ".join(
            f"{role.upper()} {phrase('row.times', language, value=write_number(ratio, 1, language))}"
            for role, ratio in signals.items()
        ),
        change=_change_of(lesion, result, language),
        certainty=write_percent(100 * lesion.certainty, language),
        territory=_territories_of(lesion, language),
    )


def _territories_of(lesion: Lesion, language: Language) -> str:
    """Return the territories of the site's atlas with their shares, the largest first."""
    return ", ".join(
        f"{share.name} {write_percent(100 * share.share, language)}"
        for share in lesion.territories[:_MOST_TERRITORIES]
    )


def _row_sentence(lesion: Lesion, result: PipelineResult, language: Language) -> str:
    territories = _territories_of(lesion, language)
    facts = [
        write_ml(measured_ml(lesion), language),
        phrase(
            "row.long-axis",
            language,
            value=f"{write_number(lesion.long_axis.length_mm, 1, language)} mm",
        ),
        *(
            phrase("row.signal", language, image=role.upper(), value=write_number(ratio, 1, language))
            for role, ratio in relative_signals(lesion.measurements).items()
        ),
        *([phrase("row.territory", language, names=territories)] if territories else []),
        phrase("row.certainty", language, value=write_percent(100 * lesion.certainty, language)),
    ]
    change = _change_of(lesion, result, language)
    place = describe_place(lesion, language) or phrase("row.nowhere", language)
    sentence = ", ".join([*facts, *([change] if change else [])])
    return phrase("row.lesion", language, number=lesion.label, place=place, facts=sentence)


def _change_of(lesion: Lesion, result: PipelineResult, language: Language) -> str:
    changes = result.follow_up.changes if result.follow_up else ()
    change = next((change for change in changes if change.label == lesion.label), None)
    if change is None:
        return ""
    return phrase(f"change.{change.kind}", language, volume=write_ml(change.earlier_ml, language))


def _merged_sentence(lesions: Sequence[Lesion], language: Language) -> str:
    volume = write_ml(sum(measured_ml(lesion) for lesion in lesions), language)
    first, last = lesions[0].label, lesions[-1].label
    return phrase("row.merged", language, first=first, last=last, volume=volume)


def _total_sentences(result: PipelineResult, language: Language) -> list[str]:
    if len(result.lesions) < 2:
        return []
    return [
        phrase(
            "row.total",
            language,
            count=len(result.lesions),
            volume=write_ml(_value(result, "total_volume"), language),
            load=write_percent(_value(result, "lesion_load"), language, 1),
            brain=f"{write_number(_value(result, 'brain_volume'), 0, language)} ml",
        )
    ]


def _earlier_sentences(result: PipelineResult, language: Language) -> list[str]:
    """Return a sentence for each earlier lesion that has no row today."""
    changes = result.follow_up.changes if result.follow_up else ()
    return [
        phrase(
            "row.earlier-gone" if change.kind == "gone" else "row.earlier-not-imaged",
            language,
            number=change.earlier_labels[0],
            volume=write_ml(change.earlier_ml, language),
        )
        for change in changes
        if change.label is None
    ]


def _describe_technique(
    result: PipelineResult, technique: Mapping[str, str], language: Language
) -> list[str]:
    rule = result.plan.rule
    sentences = [
        phrase(
            "technique.outlined",
            language,
            image=result.reference_role.upper(),
            name=technique["name"],
            version=technique["version"],
            threshold=f"{rule.threshold:g}",
            smallest=f"{rule.minimum_volume_mm3:g}",
        )
    ]
    if rule.asks_for_peak:
        sentences.append(phrase("technique.peak", language, peak=f"{rule.peak:g}"))
    if result.lesions:
        sentences.append(_explain_certainty(result, language))
    if any(relative_signals(lesion.measurements) for lesion in result.lesions):
        sentences.append(phrase("technique.signal", language))
    if any(lesion.regions for lesion in result.lesions):
        sentences.append(phrase("technique.regions", language))
    if result.follow_up is not None:
        sentences.append(phrase("technique.change", language))
    if result.lesions:
        centres = "; ".join(_centre(lesion, language) for lesion in result.lesions[:_CENTRES])
        sentences.append(phrase("technique.centres", language, centres=centres))
    return sentences


def _explain_certainty(result: PipelineResult, language: Language) -> str:
    calibration = result.plan.calibration
    if calibration is None:
        return phrase("technique.certainty", language)
    counts = {"findings": calibration.findings, "people": calibration.people}
    return phrase("technique.certainty-calibrated", language, **counts)


def _centre(lesion: Lesion, language: Language) -> str:
    """Return a lesion's centre in scanner and template coordinates, and the agreement there."""
    words = [f"{lesion.label}: {describe_point(lesion.centroid_lps_mm)}"]
    if lesion.centroid_mni_mm is not None:
        x, y, z = (round(coordinate) for coordinate in lesion.centroid_mni_mm)
        words.append(f"MNI {x} {y} {z}")
    if lesion.mean_agreement is not None:
        agreement = write_percent(100 * lesion.mean_agreement, language)
        words.append(phrase("technique.agreement", language, value=agreement))
    return ", ".join(words)


def _value(result: PipelineResult, name: str) -> float:
    return sum(item.value for item in result.measurements if item.name == name)
