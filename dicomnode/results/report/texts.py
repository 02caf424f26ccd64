"""A narrative as the texts of a report, each under its concept (PS3.16 CID 7002)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.sr.coding import Code

from dicomnode.results.words import codes
from dicomnode.results.words.narrative import Narrative


def texts_of(narrative: Narrative) -> list[tuple[Code, str]]:
    """Return every sentence in the order of reading; technique, series and limits are one text each."""
    return [
        (codes.IMPRESSION, narrative.impression),
        *((codes.FINDING, sentence) for sentence in narrative.sentences),
        *((codes.COMMENT, sentence) for sentence in narrative.quality),
        (codes.PROCEDURE_DESCRIPTION, " ".join(narrative.technique)),
        (codes.PROCEDURE_DESCRIPTION, " ".join(narrative.series)),
        (codes.COMMENT, " ".join(narrative.limits)),
    ]


def texts_of_refusal(sentences: Sequence[str]) -> list[tuple[Code, str]]:
    """Return what is said of a study without a result: first that there is none."""
    first, *others = sentences
    return [(codes.IMPRESSION, first), *((codes.COMMENT, sentence) for sentence in others)]
