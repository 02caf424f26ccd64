"""What a plain 3D network adds to a manifest: one graph and no table."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.bundles.family import Family
from pipeline.bundles.manifest import GRAPH, FamilySpec


def find_files_problem(names: Collection[str], spec: FamilySpec) -> str:
    """Return what is wrong with the graphs that a manifest lists; empty when nothing is."""
    del spec
    return "" if set(names) == {GRAPH} else f"must list {GRAPH} alone: only an nnU-Net has further folds"


FAMILY = Family("patch3d", find_files_problem, tasks=("lesion", "brain"))
