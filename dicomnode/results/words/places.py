"""Where a lesion lies, in the words of a radiologist: side and regions.

Where the regions are not believed, the side from the midplane stands alone.
"""

from __future__ import annotations

from dicomnode.results.words.language import (
    SMALL_ML,
    begin_sentence,
    join_words,
    phrase,
    write_ml,
    write_round_ml,
)
from dicomnode.settings.config import Language
from pipeline.records import Lesion

_MOST_REGIONS = 3
_SMALLEST_SHARE = 0.1


def measured_ml(lesion: Lesion) -> float:
    """Return a lesion's volume."""
    return next(item.value for item in lesion.measurements if item.name == "volume")


def side_of(lesion: Lesion) -> str:
    """Return "left", "right" or "both"; empty where the side is not known."""
    return "" if lesion.laterality == "unknown" else lesion.laterality


def regions_of(lesion: Lesion) -> tuple[str, ...]:
    """Return the keys of the regions that are named: the largest share first, no more than three."""
    named = [
        share.region
        for number, share in enumerate(lesion.regions)
        if number == 0 or share.share >= _SMALLEST_SHARE
    ]
    return tuple(dict.fromkeys(named))[:_MOST_REGIONS]


def describe_lesion(lesion: Lesion, language: Language) -> str:
    """Return a lesion as the impression names it: "left frontal and insular lesion of 38 ml"."""
    volume_ml = measured_ml(lesion)
    regions = [phrase(f"region-of-lesion.{region}", language) for region in regions_of(lesion)]
    side = side_of(lesion)
    words = {"volume": write_round_ml(volume_ml, language)}
    if side:
        words["side"] = phrase(f"side.{side}", language)
    if regions:
        words["regions"] = join_words(regions, language)
    row = "-".join(
        [
            *(["small"] if volume_ml < SMALL_ML else []),
            *(["side"] if side else []),
            *(["region"] if regions else []),
            *(["volume"] if volume_ml >= SMALL_ML else []),
        ]
    )
    # "Bilateral" is no side that something is "-sided" to.
    if side == "both" and not regions and language == "en":
        row, words["regions"] = row.replace("side", "region"), words["side"]
    return phrase(f"lesion.{row}", language, **words)


def describe_place(lesion: Lesion, language: Language) -> str:
    """Return side and regions for the table's own line: "Left frontal, insula".

    The line is empty where neither is known.
    """
    words = [phrase(f"region.{region}", language) for region in regions_of(lesion)]
    side = write_side(lesion, language)
    if not side:
        return begin_sentence(", ".join(words))
    if not words:
        return begin_sentence(side)
    if language in ("en", "de"):
        return begin_sentence(f"{side} {', '.join(words)}")
    return begin_sentence(f"{', '.join(words)} ({side})")


def write_side(lesion: Lesion, language: Language) -> str:
    """Return the side by itself, as a column has it; empty where it is not known."""
    side = side_of(lesion)
    return phrase(f"side-column.{side}", language) if side else ""


def write_regions(lesion: Lesion, language: Language) -> str:
    """Return the regions by themselves, as a column has them."""
    return ", ".join(phrase(f"region.{region}", language) for region in regions_of(lesion))


def label_segment(lesions: tuple[Lesion, ...], language: Language) -> str:
    """Return a segment's label: number, side, the region with the largest share, volume.

    >>> from pipeline.records import LongAxis, Measurement, RegionShare
    >>> lesion = Lesion(1, 9, (0, 0, 0), LongAxis(0, (0, 0), (0, 1), 1.0),
    ...     (Measurement("volume", 38.21, "ml", ""),), 0.9, "left",
    ...     regions=(RegionShare("frontal", "left", 0.8), RegionShare("insula", "left", 0.2)))
    >>> label_segment((lesion,), "en"), label_segment((lesion,), "de")
    ('1 Left frontal, 38.2 ml', '1 Links frontal, 38,2 ml')
    """
    volume = write_ml(sum(measured_ml(lesion) for lesion in lesions), language)
    first, last = lesions[0], lesions[-1]
    if len(lesions) > 1:
        return phrase("label.merged", language, first=first.label, last=last.label, volume=volume)
    side = write_side(first, language)
    if language == "en" and first.laterality == "both":
        side = phrase("side.both", language)
    region = "".join(phrase(f"region.{region}", language) for region in regions_of(first)[:1])
    words: dict[str, object] = {"number": first.label, "volume": volume}
    if side and region:
        words |= {"side": side, "region": region}
        # The word that comes first in the label begins with a capital.
        if language in ("en", "de"):
            words["side"] = begin_sentence(side)
        else:
            words["region"] = begin_sentence(region)
        return phrase("label.side-region", language, **words)
    if side or region:
        return phrase("label.place", language, place=begin_sentence(side or region), **words)
    return phrase("label.nowhere", language, **words)


def shorten_label(label: str, lesion_count: int) -> tuple[str, ...]:
    """Return a segment's label and what stands in its place where room is scarce, longest first.

    >>> shorten_label("1 Left frontal, 38.2 ml", 1)
    ('1 Left frontal, 38.2 ml', '1 Left frontal', '1')
    """
    without_volume = label.rpartition(", ")[0]
    # The number of several lesions is no word by itself.
    return (label, without_volume, *([label.partition(" ")[0]] if lesion_count == 1 else []))
