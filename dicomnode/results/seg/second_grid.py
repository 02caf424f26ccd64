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
from dicomnode.results.parts import AnswerParts
from dicomnode.results.seg.segmentation import SegmentationSeries, draw_on_grid
from dicomnode.settings.config import ResultForm
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


def build_second_segmentation(parts: AnswerParts, form: ResultForm, grid: SecondGrid) -> Dataset:
    """Return the SEG on the second grid; segments, tracking UIDs and colours are those of the first."""
    labels = grid.volume.with_array(move_labels(parts.result.labels, grid))
    roles = [source.role for source in parts.context.sources]
    moved = replace(
        parts,
        context=replace(parts.context, sources=(grid.source,)),
        evidence=(parts.evidence[roles.index(grid.source.role)],),
        result=replace(parts.result, labels=labels),
    )
    series = SegmentationSeries(form.kind_of("seg-t1"), 6, "Stroke lesions on the T1")
    return draw_on_grid(moved, series, form)
