"""The `[triplanar]` table of a manifest, and the graphs that the family needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipeline.bundles.family import Family
from pipeline.bundles.manifest import FamilySpec, Shape
from pipeline.bundles.values import Values

PLANES = ("axial", "coronal", "sagittal")
PLANE_GRAPHS = {plane: f"model-{plane}.onnx" for plane in PLANES}

RULES = ("average", "vote")


@dataclass(frozen=True)
class TriplanarSpec(FamilySpec):
    """One 2D network for each plane, and how their answers become one.

    Attributes
    ----------
    thresholds
        Probability at which each plane votes when the output's default threshold is asked for.
    rule
        "vote": the majority of two of the three; "average": the mean of the planes' moved probabilities.
    slices
        How many slices a graph takes at once; 0: all of the patch. A few stay in the processor's cache, and
        empty ones need not be asked about.
    multiple
        What both sizes of a slice must be multiples of; 0: a graph takes slices of the patch's size only.
        Else it is shown the part of a slice that holds the image, and asked about nothing around it.
    margin
        How many voxels around the image that part has.
    stride
        Of so many slices one is asked about; those between are interpolated.
    """

    thresholds: Mapping[str, float]
    rule: str = "vote"
    slices: int = 0
    multiple: int = 0
    margin: int = 0
    stride: int = 1

    def shape_of(self, graph: str, patch: Shape) -> Shape:
        """Return the spatial shape of one graph's input.

        The patch, or `slices` of it along the graph's own axis.
        """
        axis = list(PLANE_GRAPHS.values()).index(graph)
        sizes = [self.slices if self.slices and number == axis else size for number, size in enumerate(patch)]
        return sizes[0], sizes[1], sizes[2]


def find_files_problem(names: Collection[str], spec: FamilySpec) -> str:
    """Return what is wrong with the graphs that a manifest lists; empty when nothing is."""
    del spec
    graphs = PLANE_GRAPHS.values()
    return "" if set(names) == set(graphs) else f"the family triplanar needs {', '.join(graphs)}"


def read_table(values: Values) -> TriplanarSpec:
    """Read the table; a threshold for each plane."""
    thresholds = values.shares("triplanar.thresholds", PLANES)
    if absent := [plane for plane in PLANES if plane not in thresholds]:
        raise values.problem(
            "triplanar.thresholds", f"needs a number between 0 and 1 for {', '.join(absent)} too"
        )
    counts = {key: values.value(f"triplanar.{key}", int, 0) for key in ("slices", "multiple", "margin")}
    for key, count in counts.items():
        if count < 0:
            raise values.problem(f"triplanar.{key}", "must not be negative")
    stride = values.value("triplanar.stride", int, 1)
    if not 1 <= stride <= 4:
        raise values.problem("triplanar.stride", "must be 1, 2, 3 or 4")
    if counts["multiple"] and not counts["slices"]:
        raise values.problem("triplanar.multiple", "needs triplanar.slices")
    return TriplanarSpec(thresholds, values.one_of("triplanar.rule", RULES, "vote"), stride=stride, **counts)


FAMILY = Family("triplanar", find_files_problem, "triplanar", read_table)
