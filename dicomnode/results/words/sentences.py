"""What results say in words, within the lengths that the standard allows.

ASCII, so that any character set carries it.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Collection, Sequence

from dicomnode.results.words.measured import state
from dicomnode.states import Outcome
from pipeline.records import Finding, Lesion, PipelineResult

Findings = Sequence[Finding]

LONG_STRING = 64
"""Characters of a LO value (PS3.5 6.2)."""
# Findings after which a negative result does not exclude a lesion: of the image, of what was left out of it,
# and of what it is.
_LEAVES_DOUBT = frozenset(
    {
        *("brain-not-covered", "no-flair", "outside-trained-range", "low-snr", "motion-suspected"),
        *(
            "slices-left-out",
            "stack-in-parts",
            "instances-missing",
            "instances-unreadable",
            "spacing-contradicts-header",
            "empty-slices",
        ),
        *("contrast-enhanced-flair", "witnesses-contradict"),
    }
)
_LIMITS_QUALITY = frozenset({"brain-not-covered", "low-snr", "motion-suspected"})
_SIDES = {"left": ", left", "right": ", right", "both": ", both sides", "unknown": ""}
WARNING = "AI result, not for primary diagnosis"
UNDETERMINED = "These images cannot rule one out."
NO_ABSENCE = "Absence of a segmentation does not mean absence of a lesion."
_OPENING = {
    Outcome.REFUSED: "This study was not analysed for stroke lesions.",
    Outcome.FAILED: "The analysis for stroke lesions failed on this study.",
}


def plain_ascii(text: str) -> str:
    r"""Return text without characters outside ASCII and without control characters.

    >>> plain_ascii("26 – 3 × 4 mm³\n")
    '26 - 3 x 4 mm3'
    """
    swapped = text.translate(
        {
            0x2013: "-",
            0x2014: "-",
            0x2019: "'",
            0xD7: "x",
            0xB0: " deg",
            0xB5: "u",
            0x2265: ">=",
            0x2264: "<=",
        }
    )
    bare = "".join(
        letter for letter in unicodedata.normalize("NFKD", swapped) if not unicodedata.combining(letter)
    )
    return re.sub(r"[\x00-\x20\x7f]+", " ", bare.encode("ascii", "replace").decode("ascii")).strip()


def clip_at_sentence(text: str, length: int = LONG_STRING) -> str:
    """Shorten text to a LO value: at the last sentence or clause that fits, else at a word.

    >>> clip_at_sentence("Trained on synthetic data only. For research use; not for diagnosis.")
    'Trained on synthetic data only. For research use'
    """
    text = plain_ascii(text).replace("\\", "/")
    if len(text) <= length:
        return text
    ends = [match.start() for match in re.finditer(r"[.;](?=\s)", text[: length + 1])] or [
        match.start() for match in re.finditer(r"\s", text[: length + 1])
    ]
    return text[: ends[-1] if ends else length].rstrip(" .;,")


def wrap_words(text: str, width: int) -> list[str]:
    """Return the lines of a paragraph, at most `width` letters each; a word that is longer stands alone.

    >>> wrap_words("one two three", 7)
    ['one two', 'three']
    """
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def was_refused(findings: Findings) -> bool:
    """Return whether an input was refused on the way, so that not all of the analysis took place."""
    return any(finding.grade == "refuse" for finding in findings)


def may_claim_absence(used: Collection[str], findings: Findings) -> bool:
    """Return whether finding nothing means that nothing is there.

    A FLAIR was used in full, and no input was refused.

    Parameters
    ----------
    used
        Roles of the images that were segmented (`PipelineResult.used`).
    """
    return (
        "flair" in used
        and not was_refused(findings)
        and _LEAVES_DOUBT.isdisjoint(finding.code for finding in findings)
    )


def is_limited(findings: Findings) -> bool:
    """Return whether an image is of limited quality (RadLex RID13): noisy, moved, or not the whole brain."""
    return not _LIMITS_QUALITY.isdisjoint(finding.code for finding in findings)


def describe_cut(result: PipelineResult) -> str:
    """Return the threshold, and the probability that a lesion had to reach somewhere.

    Where one was asked for.
    """
    rule = result.plan.rule
    return (
        f"{rule.threshold:g}, and a peak of at least {rule.peak:g}"
        if rule.asks_for_peak
        else f"{rule.threshold:g}"
    )


def describe_lesions(result: PipelineResult, merged: int, maximum_segments: int) -> list[str]:
    """Return the findings in sentences: the total first, then each lesion."""
    if not result.lesions:
        return [
            (
                f"No lesion was found on the {result.reference_role.upper()} at a probability "
                f"threshold of {describe_cut(result)}."
            )
        ]
    total_ml = sum(item.value for item in result.measurements if item.name == "total_volume")
    noun = "lesion" if len(result.lesions) == 1 else "lesions"
    total = (
        f"{len(result.lesions)} {noun} found on the {result.reference_role.upper()}, {total_ml:.2f} ml in all "
        f"(probability threshold {describe_cut(result)})."
    )
    sentences = [total]
    if merged:
        sentences.append(f"The {merged} smallest lesions are merged in segment {maximum_segments}.")
    single = result.lesions[: maximum_segments - 1 if merged else None]
    return [*sentences, *map(_describe_lesion, single)]


def _describe_lesion(lesion: Lesion) -> str:
    return (
        f"Lesion {lesion.label}{_SIDES[lesion.laterality]}: {state(lesion.measurements)}, "
        f"centre at {describe_place(lesion.centroid_lps_mm)} mm in the scanner's coordinates{_describe_mni(lesion)}; "
        f"{describe_certainty(lesion)}."
    )


def _describe_mni(lesion: Lesion) -> str:
    """Return where a lesion lies in the template (RAS), or nothing.

    The registration is affine: the place is some millimetres off.
    """
    if lesion.centroid_mni_mm is None:
        return ""
    x, y, z = (round(coordinate) for coordinate in lesion.centroid_mni_mm)
    return f" (about {x}, {y}, {z} in MNI space)"


def describe_changes(result: PipelineResult) -> list[str]:
    """Return what became of each lesion since the earlier study in sentences; none without one."""
    if result.follow_up is None:
        return []
    since_date = f" of {result.follow_up.date}" if result.follow_up.date else ""
    limits_sentence = (
        "a change is told from 0.2 ml and 25 % on, limits that were not measured on repeated scans"
    )
    sentences = [
        (
            f"Compared with the lesions that this node outlined in an earlier study{since_date}; "
            f"{limits_sentence}."
        )
    ]
    for change in result.follow_up.changes:
        if change.label is None:
            fate = "is gone" if change.kind == "gone" else "lies outside today's images"
            sentences.append(
                f"An earlier lesion of {change.earlier_ml:.2f} ml (earlier lesion "
                f"{change.earlier_labels[0]}) {fate}."
            )
        elif change.kind == "new":
            sentences.append(f"Lesion {change.label} is new.")
        else:
            numbers = " and ".join(str(label) for label in change.earlier_labels)
            sentences.append(
                f"Lesion {change.label} is {change.kind}: {change.volume_ml:.2f} ml, before "
                f"{change.earlier_ml:.2f} ml (earlier lesion {numbers})."
            )
    return sentences


def describe_certainty(lesion: Lesion) -> str:
    """Return how sure the network is of a lesion, and that nobody has calibrated it.

    A probability of 0.74 does not mean that 74 of 100 such lesions are real.
    """
    sentence = f"mean network probability {100 * lesion.mean_probability:.0f} % (not calibrated)"
    if lesion.mean_agreement is not None:
        sentence += f", agreement {100 * lesion.mean_agreement:.0f} %"
    return sentence


def describe_place(point_lps_mm: tuple[float, float, float]) -> str:
    """Return a point by the sides that it lies on, never by a negative number.

    "L -30" reads as left at a glance.

    >>> describe_place((-30.2, 14.6, -0.3))
    'R 30, P 15, H 0'
    """
    sides = (("L", "R"), ("P", "A"), ("H", "F"))
    rounded = (round(value) for value in point_lps_mm)
    return ", ".join(
        f"{high if value >= 0 else low} {abs(value)}"
        for (high, low), value in zip(sides, rounded, strict=True)
    )


def describe_remarks(findings: Findings) -> list[str]:
    """Return the remarks on the input as sentences, most severe first, each once."""
    severity = {"refuse": 0, "warning": 1, "info": 2}
    ordered = sorted(findings, key=lambda finding: severity[finding.grade])
    return list(
        dict.fromkeys(
            f"{finding.grade.capitalize()}: {plain_ascii(_with_value(finding))}" for finding in ordered
        )
    )


def _with_value(finding: Finding) -> str:
    """Return the message, with the value that was seen where it does not say it itself."""
    if not finding.value or finding.value in finding.message:
        return finding.message
    return f"{finding.message} (seen: {finding.value})"


def describe_refusal(code: str, sentence: str, findings: Findings, outcome: Outcome) -> tuple[str, ...]:
    """Return what is said of a study without a segmentation.

    Parameters
    ----------
    code, sentence
        Stable kebab-case reason, and one sentence that says what is wrong and what to do.
    """
    return (
        _OPENING.get(outcome, _OPENING[Outcome.FAILED]),
        sentence,
        f"Reason code: {code}",
        *describe_remarks(findings),
    )
