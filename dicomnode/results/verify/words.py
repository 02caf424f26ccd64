"""The words of a report against the mask: the sides and volumes that its sentences state.

A second, small table of words, on purpose: what the builders' table calls left must be what is left here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.verify.content import concept
from dicomnode.settings.config import Language
from pipeline.geometry import voxel_volume_mm3
from pipeline.records import Lesion, PipelineResult

_IMPRESSION, _FINDING = "121073", "121071"
# Stems, so that every form of the word is seen.
_LEFT: Mapping[Language, str] = {
    "en": r"\bleft\b",
    "de": r"\blinks\b",
    "fr": r"\bgauche",
    "es": r"\bizquierd",
}
_RIGHT: Mapping[Language, str] = {
    "en": r"\bright\b",
    "de": r"\brechts\b",
    "fr": r"\bdroite?s?\b",
    "es": r"\bderech",
}
_ALL_NAMED = 4
_ROUNDING_ML = 1e-4


def check_words(report: Dataset, segment_count: int, result: PipelineResult, language: Language) -> None:
    """Refuse a report whose first text is no impression, or whose sentences contradict the mask.

    Raises
    ------
    ResultRejected
        With the first difference.
    """
    texts = [
        (concept(item), str(item.TextValue)) for item in report.ContentSequence if item.ValueType == "TEXT"
    ]
    if not texts or texts[0][0] != _IMPRESSION:
        raise ResultRejected("the report does not begin with its impression")
    impression = texts[0][1]
    if len(result.lesions) <= _ALL_NAMED:
        _check_sides("the impression", impression.partition(". ")[0], result.lesions, language)
    sentences = [text for name, text in texts if name == _FINDING]
    single = result.lesions[: segment_count if segment_count == len(result.lesions) else segment_count - 1]
    for lesion in single:
        stated = [text for text in sentences if text.startswith(f"{lesion.label}. ")]
        if len(stated) != 1:
            raise ResultRejected(f"the report has {len(stated)} sentences on lesion {lesion.label}")
        _check_sides(f"the sentence on lesion {lesion.label}", _place_of(stated[0]), [lesion], language)
        _check_volume(lesion.label, stated[0], result)


def _place_of(sentence: str) -> str:
    """Return a lesion's sentence up to its numbers: what follows compares it with the other side."""
    return sentence.partition(":")[0]


def _check_sides(subject: str, text: str, lesions: Sequence[Lesion], language: Language) -> None:
    for side, pattern in (("left", _LEFT[language]), ("right", _RIGHT[language])):
        expected = sum(lesion.laterality == side for lesion in lesions)
        stated = len(re.findall(pattern, text, flags=re.IGNORECASE))
        if stated != expected:
            raise ResultRejected(f"{subject} names the {side} side {stated} instead of {expected} times")


def check_label(label: str, lesion: Lesion, result: PipelineResult) -> None:
    """Refuse a segment's label that does not begin with the lesion's number, or states another volume.

    Raises
    ------
    ResultRejected
        With the first difference.
    """
    if not label.startswith(f"{lesion.label} "):
        raise ResultRejected(f"the label of segment {lesion.label} does not begin with its number")
    _check_volume(lesion.label, label, result)


def _check_volume(label: int, sentence: str, result: PipelineResult) -> None:
    """Compare the first volume of a sentence with the mask's, counted anew.

    They agree within the rounding of the last digit.
    """
    volume_ml = np.count_nonzero(result.labels.array == label) * voxel_volume_mm3(result.labels.affine) / 1000
    stated = re.search(r"[:,] (\d+)[.,](\d+) ml", sentence)
    if stated is None:
        raise ResultRejected(f"the words on lesion {label} state no volume")
    whole, decimals = stated.groups()
    if abs(float(f"{whole}.{decimals}") - volume_ml) > 0.5 * 10 ** -len(decimals) + _ROUNDING_ML:
        raise ResultRejected(f"the words on lesion {label} state another volume than its mask has")
