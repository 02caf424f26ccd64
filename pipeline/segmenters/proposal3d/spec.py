"""The `[proposal]` table of a manifest, and the graphs that the family needs."""

from __future__ import annotations

from dataclasses import dataclass

PROPOSAL_GRAPH = "model-proposal.onnx"
COARSE_GRAPH = "model-coarse.onnx"


@dataclass(frozen=True)
class ProposalSpec:
    """How regions are proposed (StrokeFormer); `patch` is the shape of the proposal's and the coarse graph.

    Attributes
    ----------
    threshold
        Heat at or above which a pixel of a slice is proposed.
    smallest_pixels
        Pixels that a proposal needs.
    area_change, head_iou
        A group of slices goes on while the head's area changes by no more, and its outline overlaps by no less, against the group's first slice.
    box_iou
        Overlap at which two slices' boxes are the same region.
    coarse
        Whether a pass over the whole brain adds regions that the slices missed; false is the published behaviour.
    coarse_threshold
        Probability at or above which the coarse pass adds a voxel's region.
    """

    patch: tuple[int, int, int]
    threshold: float
    smallest_pixels: int
    area_change: float
    head_iou: float
    box_iou: float
    coarse: bool
    coarse_threshold: float
