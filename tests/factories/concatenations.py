"""Multi-frame instances cut into concatenations, and several stacks put into one instance, as PS3.3 C.7.6.16 has them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.simulator.author import derive_uid


def cut(whole: Dataset, counts: Sequence[int]) -> list[Dataset]:
    """Return the parts of a native multi-frame instance, with so many frames each (PS3.3 C.7.6.16.2.2.4)."""
    frames = whole.pixel_array
    assert sum(counts) == len(frames)
    parts = []
    offset = 0
    for number, count in enumerate(counts, start=1):
        part = copy.deepcopy(whole)
        part.SOPInstanceUID = derive_uid(whole.SOPInstanceUID, "part", number)
        part.file_meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID
        part.ConcatenationUID = derive_uid(whole.SOPInstanceUID, "concatenation")
        part.SOPInstanceUIDOfConcatenationSource = whole.SOPInstanceUID
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number, len(counts)
        part.ConcatenationFrameOffsetNumber = offset
        part.NumberOfFrames = str(count)
        part.PerFrameFunctionalGroupsSequence = whole.PerFrameFunctionalGroupsSequence[
            offset : offset + count
        ]
        part.PixelData = np.ascontiguousarray(frames[offset : offset + count]).tobytes()
        parts.append(part)
        offset += count
    return parts


def put_together(first: Dataset, second: Dataset) -> Dataset:
    """Return one instance with the frames of both, each a stack with a Stack ID and a plane orientation of its own.

    Both have the same matrix and were made by `author_enhanced`.
    """
    both = copy.deepcopy(first)
    items = []
    for stack, instance in (("1", first), ("2", second)):
        (shared,) = instance.SharedFunctionalGroupsSequence
        for frame in instance.PerFrameFunctionalGroupsSequence:
            item = copy.deepcopy(frame)
            item.FrameContentSequence[0].StackID = stack
            for keyword in _OF_A_STACK:
                if keyword in shared:
                    setattr(item, keyword, copy.deepcopy(shared[keyword].value))
            items.append(item)
    for keyword in _OF_A_STACK:
        if keyword in both.SharedFunctionalGroupsSequence[0]:
            delattr(both.SharedFunctionalGroupsSequence[0], keyword)
    both.PerFrameFunctionalGroupsSequence = items
    both.NumberOfFrames = str(len(items))
    both.PixelData = first.PixelData + second.PixelData
    return both


_OF_A_STACK = ("PixelMeasuresSequence", "PlaneOrientationSequence")
