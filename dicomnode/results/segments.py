"""Which lesion goes into which segment: decided once, used by SEG, SR and preview alike."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.uid import UID

from dicomnode.results.provenance import Provenance
from dicomnode.results.words.places import label_segment
from dicomnode.settings.config import Language
from pipeline.records import Array, Laterality, Lesion, PipelineResult

_GOLDEN_RATIO = 0.618033988749895


@dataclass(frozen=True)
class SegmentPlan:
    """One segment: its number from 1.

    The lesions in it (largest first), its label for people, its names and its colour (sRGB, 0..255).
    """

    number: int
    lesions: tuple[Lesion, ...]
    label: str
    tracking_id: str
    tracking_uid: UID
    color: tuple[int, int, int]

    @property
    def laterality(self) -> Laterality:
        """Side of the segment's lesions; "both" when they lie on different sides."""
        sides = {lesion.laterality for lesion in self.lesions}
        if len(sides) == 1:
            return sides.pop()
        return "unknown" if "unknown" in sides else "both"


def plan_segments(
    result: PipelineResult, maximum_segments: int, provenance: Provenance, language: Language = "en"
) -> tuple[SegmentPlan, ...]:
    """Give each lesion a segment, largest first; beyond the maximum, the rest shares the last one."""
    groups: list[Sequence[Lesion]] = [(lesion,) for lesion in result.lesions]
    if len(groups) > maximum_segments:
        groups = [*groups[: maximum_segments - 1], result.lesions[maximum_segments - 1 :]]
    changes = result.follow_up.changes if result.follow_up else ()
    uid_by_label = {
        change.label: UID(change.tracking_uid)
        for change in changes
        if change.label is not None and change.tracking_uid
    }
    return tuple(
        _plan(number, tuple(group), uid_by_label, provenance, language)
        for number, group in enumerate(groups, start=1)
    )


def count_merged(result: PipelineResult, maximum_segments: int) -> int:
    """Return how many lesions share the last segment; 0 when each has its own."""
    return max(0, len(result.lesions) - maximum_segments + 1) if len(result.lesions) > maximum_segments else 0


def draw_segments(labels: Array, plans: Sequence[SegmentPlan]) -> Array:
    """Return (slice, row, column) uint8: the segment number of each voxel, 0 outside."""
    table = np.zeros(
        1 + max((lesion.label for plan in plans for lesion in plan.lesions), default=0), dtype=np.uint8
    )
    for plan in plans:
        for lesion in plan.lesions:
            table[lesion.label] = plan.number
    drawn: Array = table[labels]
    return drawn


def segment_color(number: int) -> tuple[int, int, int]:
    """Return a clear colour (sRGB) for a segment; neighbours in number are far apart in hue.

    >>> segment_color(1)
    (255, 51, 51)
    """
    red, green, blue = colorsys.hsv_to_rgb((number - 1) * _GOLDEN_RATIO % 1.0, 0.8, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def cielab_color(color: tuple[int, int, int]) -> hd.color.CIELabColor:
    """Return an sRGB colour as Recommended Display CIELab Value (PS3.3 C.10.7.1.1; white point D50)."""
    return hd.color.CIELabColor.from_rgb(*color)


def _plan(
    number: int,
    lesions: tuple[Lesion, ...],
    uid_by_label: Mapping[int, UID],
    provenance: Provenance,
    language: Language,
) -> SegmentPlan:
    """Plan one segment; a lesion that an earlier study has keeps its Tracking UID (PS3.3 C.8.20.2)."""
    if len(lesions) == 1:
        tracking_id = f"Lesion {lesions[0].label}"
    else:
        tracking_id = f"Lesions {lesions[0].label} to {lesions[-1].label}"
    label = label_segment(lesions, language)
    own_uid = provenance.uid("lesion", lesions[0].label, len(lesions))
    tracking_uid = uid_by_label.get(lesions[0].label, own_uid) if len(lesions) == 1 else own_uid
    return SegmentPlan(number, lesions, label, tracking_id, tracking_uid, segment_color(number))
