"""The lesions on the T1's own grid: a second SEG, in a series of its own, for those who read the T1.

The mask moves by the rigid link that the pipeline found between the two images, nearest neighbour: labels are
never interpolated. Volumes are measured on the reference only; this SEG is for looking at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.records import SourceSeries
from dicomnode.results.provenance import Provenance
from dicomnode.results.records import AnswerContext
from dicomnode.results.seg.segmentation import SegmentationPlan, build_segmentation
from dicomnode.results.seg.segments import SegmentPlan
from pipeline.geometry import Affine, apply_affine
from pipeline.records import Array, PipelineResult, Volume


@dataclass(frozen=True, eq=False)
class SecondGrid:
    """The other image of a study: its volume, its series, and the 4x4 from the reference's mm to its own."""

    volume: Volume
    source: SourceSeries
    link: Affine


def find_second_grid(
    volume: Volume | None, sources: Sequence[SourceSeries], result: PipelineResult
) -> SecondGrid | None:
    """Return the T1 of a study whose result lies on the FLAIR.

    The result is None where there is no T1, or none was registered.
    """
    source = next((source for source in sources[1:] if source.role == "t1"), None)
    if volume is None or source is None or "t1" not in result.links:
        return None
    return SecondGrid(volume, source, result.links["t1"])


def move_labels(labels: Volume, grid: SecondGrid) -> Array:
    """Return (slice, row, column) on the second grid.

    The label of the reference's voxel in which each voxel's centre lies.
    """
    to_reference = np.linalg.inv(labels.affine) @ np.linalg.inv(grid.link) @ grid.volume.affine
    slices, rows, columns = grid.volume.array.shape
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    moved = np.zeros((slices, rows, columns), dtype=labels.array.dtype)
    for number in range(slices):
        index = np.rint(
            apply_affine(to_reference, np.stack([np.full_like(row, number), row, column], axis=-1))
        ).astype(int)
        inside = ((index >= 0) & (index < labels.array.shape)).all(axis=-1)
        moved[number][inside] = labels.array[tuple(index[inside].T)]
    return moved


def build_second_segmentation(
    context: AnswerContext,
    result: PipelineResult,
    headers: Sequence[Dataset],
    grid: SecondGrid,
    plans: Sequence[SegmentPlan],
    provenance: Provenance,
    form: SegmentationPlan,
) -> Dataset:
    """Return the SEG on the second grid; segments, tracking UIDs and colours are those of the first.

    Parameters
    ----------
    headers
        Repaired headers of the second grid's series, in the order of its frames.
    """
    moved = replace(result, labels=grid.volume.with_array(move_labels(result.labels, grid)))
    grid_context = replace(context, sources=(grid.source,))
    return build_segmentation(grid_context, moved, headers, plans, provenance, form)
