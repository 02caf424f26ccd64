"""The `[triplanar]` table of a manifest, and the graphs that the family needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PLANES = ("axial", "coronal", "sagittal")
PLANE_GRAPHS = {plane: f"model-{plane}.onnx" for plane in PLANES}


@dataclass(frozen=True)
class TriplanarSpec:
    """One 2D network for each plane; `thresholds` is the probability at which each plane votes when the output's default threshold is asked for."""

    thresholds: Mapping[str, float]
