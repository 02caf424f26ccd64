"""What a map of the brain's regions is. It answers for every point, so shares of a lesion add up to 1."""

from __future__ import annotations

from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Points
from pipeline.records import RegionName

REGIONS: tuple[RegionName, ...] = get_args(RegionName)
"""The keys, in the order of the numbers that a map returns."""
RegionNumbers = npt.NDArray[np.uint8]


class RegionMap(Protocol):
    """A partition of the brain in MNI space.

    Attributes
    ----------
    identity
        Name and version or digest: another map has another one. It is part of the plan.
    """

    @property
    def identity(self) -> str:
        """Name and version or digest."""
        ...

    def regions_at(self, points_mni_mm: Points) -> RegionNumbers:
        """Return (n,) indices into `REGIONS` for (n, 3) MNI coordinates, RAS mm."""
        ...
