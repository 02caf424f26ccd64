"""The `[triplanar]` table of a manifest, and the graphs that the family needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PLANES = ("axial", "coronal", "sagittal")
PLANE_GRAPHS = {plane: f"model-{plane}.onnx" for plane in PLANES}


@dataclass(frozen=True)
class TriplanarSpec:
    """One 2D network for each plane, and how their answers become one.

    Attributes
    ----------
    thresholds
        The probability at which each plane votes when the output's default threshold is asked for.
    rule
        "vote": the majority of two of the three; "average": the mean of the planes' moved probabilities.
    """

    thresholds: Mapping[str, float]
    rule: str = "vote"
