"""What may be claimed of a result, and texts within the lengths and letters that the standard allows.

The sentences themselves are in `sentences.toml`; `narrative` puts them together.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Collection, Sequence

from pipeline.records import Finding

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
NOT_FOR_DIAGNOSIS = "not for primary diagnosis"
WARNING = f"AI result, {NOT_FOR_DIAGNOSIS}"


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


def describe_point(point_lps_mm: tuple[float, float, float]) -> str:
    """Return a point by the sides that it lies on, never by a negative number.

    "L -30" reads as left at a glance.

    >>> describe_point((-30.2, 14.6, -0.3))
    'R 30, P 15, H 0'
    """
    sides = (("L", "R"), ("P", "A"), ("H", "F"))
    rounded = (round(value) for value in point_lps_mm)
    return ", ".join(
        f"{high if value >= 0 else low} {abs(value)}"
        for (high, low), value in zip(sides, rounded, strict=True)
    )
