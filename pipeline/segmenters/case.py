"""What every segmenter gets and gives: one case in, one answer out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.geometry import Affine, Grid
from pipeline.preprocess.extract_brain import Brain
from pipeline.records import FloatArray, Volume


@dataclass(frozen=True, eq=False)
class Case:
    """What a segmenter gets: everything in axial canonical order, everything in the reference's patient mm.

    Attributes
    ----------
    images
        Role to image, reference first.
    links
        Role to 4x4 from the reference's mm to that image's mm.
    brain
        The brain in the reference's mm.
    reference
        Grid of the reference image.
    """

    images: Mapping[str, Volume]
    links: Mapping[str, Affine]
    brain: Brain
    reference: Grid


@dataclass(frozen=True, eq=False)
class Channels:
    """The network's input on its own grid, and what was done to each channel.

    The input is (channel, slice, row, column).
    """

    array: FloatArray
    grid: Grid
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answer:
    """A segmenter's answer, on any grid in the reference's frame of reference.

    Attributes
    ----------
    probability
        float32, 0..1; a voxel is lesion where it reaches the threshold.
    agreement
        float32, 0..1, on the same grid: share of the passes, planes, folds or members that call the voxel
        lesion. None where the network answered once.
    """

    probability: Volume
    agreement: Volume | None = None
