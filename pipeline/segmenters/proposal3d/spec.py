"""The `[proposal]` table of a manifest, and the graphs that the family needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from pipeline.bundles.family import Family
from pipeline.bundles.manifest import GRAPH, FamilySpec, Manifest, Shape
from pipeline.bundles.values import Values

PROPOSAL_GRAPH = "model-proposal.onnx"
COARSE_GRAPH = "model-coarse.onnx"


@dataclass(frozen=True)
class ProposalSpec(FamilySpec):
    """How regions are proposed (StrokeFormer); `patch` is the shape of the proposal's and the coarse graph.

    Attributes
    ----------
    threshold
        Heat at or above which a pixel of a slice is proposed.
    smallest_pixels
        Pixels that a proposal needs.
    area_change, head_iou
        A group of slices goes on while the head's area changes by no more, and its outline overlaps by no
        less, against the group's first slice.
    box_iou
        Overlap at which two slices' boxes are the same region.
    coarse
        Whether a pass over the whole brain adds regions that the slices missed; false is the published
        behaviour.
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

    def least_shape(self, patch: Shape) -> Shape:
        """Return the shape of the graphs that see the whole brain."""
        del patch
        return self.patch

    def shape_of(self, graph: str, patch: Shape) -> Shape:
        """Return the spatial shape of one graph's input.

        The 3D network sees a region, the others the whole brain.
        """
        return self.patch if graph in (PROPOSAL_GRAPH, COARSE_GRAPH) else patch


def find_files_problem(names: Collection[str], spec: FamilySpec) -> str:
    """Return what is wrong with the graphs that a manifest lists; empty when nothing is."""
    coarse = isinstance(spec, ProposalSpec) and spec.coarse
    needed = [GRAPH, PROPOSAL_GRAPH, *([COARSE_GRAPH] if coarse else [])]
    fits = set(needed) <= set(names) <= {GRAPH, PROPOSAL_GRAPH, COARSE_GRAPH}
    return "" if fits else f"the family proposal3d needs {', '.join(needed)}"


def read_table(values: Values) -> ProposalSpec:
    """Read the table; no key may be missing."""
    values.declare(key.name for key in fields(ProposalSpec))
    patch = values.row("proposal.patch", int, 3)
    smallest_pixels = values.value("proposal.smallest_pixels", int)
    if min(patch) < 1:
        raise values.problem("proposal.patch", "needs 3 positive whole numbers")
    if smallest_pixels < 1:
        raise values.problem("proposal.smallest_pixels", "must be a positive whole number")
    return ProposalSpec(
        patch=(patch[0], patch[1], patch[2]),
        threshold=values.share("proposal.threshold"),
        smallest_pixels=smallest_pixels,
        area_change=values.share("proposal.area_change"),
        head_iou=values.share("proposal.head_iou"),
        box_iou=values.share("proposal.box_iou"),
        coarse=values.value("proposal.coarse", bool),
        coarse_threshold=values.share("proposal.coarse_threshold"),
    )


def check(manifest: Manifest, values: Values) -> None:
    """Refuse ways of tiling that regions do not have."""
    if manifest.window.aggregate == "logits" or manifest.window.mirror_axes:
        raise values.problem("window", "the family proposal3d averages probabilities and mirrors nothing")


FAMILY = Family("proposal3d", find_files_problem, "proposal", read_table, check)
