"""The program's own coarse partition: one quadric for each region, and the highest one wins.

A quadric is a polynomial of second degree in (|x|, y, z), so two regions meet in a plane, an ellipsoid or
another surface of second degree, alike on both sides. The numbers were fitted by `scripts/regions.py`:
logistic regression on 60,000 random voxels of the Desikan-Killiany volume, grown into the white matter,
cortex counting twice. 92 % of that atlas's cortical voxels come out in the right lobe, 90 % of all voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Points
from pipeline.measure.regions.region_map import REGIONS, RegionNumbers

UNIT_MM = 50.0
"""Coordinates are divided by it, so that all coefficients are of one size."""

# Columns: 1, |x|, y, z, x², y², z², |x|y, |x|z, yz.  Rows: as REGIONS.
# fmt: off
_COEFFICIENTS = (
    (7.3, -17.9, 17.7, -3.5, 27.4, 18.8, 20.6, 12.0, 11.9, -4.2),  # frontal
    (7.5, -28.4, 12.3, -4.7, 35.6, 18.5, 18.6, 4.2, 13.3, -5.8),  # parietal
    (2.1, -17.7, 3.4, -15.7, 34.1, 12.3, 22.8, 3.0, 0.2, -5.0),  # temporal
    (-4.4, -27.9, -6.5, -21.4, 37.8, 13.0, 13.2, 4.2, -2.5, -15.3),  # occipital
    (-20.9, 94.3, 20.4, 21.1, -60.5, 7.1, -3.3, -5.5, -29.4, -8.4),  # insula
    (3.5, 45.5, 26.0, 15.3, -44.2, -4.5, -25.7, -20.2, -16.8, -18.8),  # basal ganglia
    (10.8, 7.1, -12.7, 13.9, -40.4, -30.0, -78.5, -17.1, 47.9, 12.6),  # thalamus
    (-6.7, -57.7, -26.0, -12.8, 35.1, -3.3, 19.8, -0.5, -38.5, 17.2),  # cerebellum
    (-6.2, -3.3, -54.1, -6.2, -19.5, -45.0, 23.1, 30.5, 23.8, 36.4),  # brain stem
    (7.0, 6.0, 19.4, 14.0, -5.3, 13.1, -10.6, -10.6, -9.9, -8.7),  # periventricular
)
# fmt: on


@dataclass(frozen=True)
class Quadrics:
    """A partition by quadrics.

    Attributes
    ----------
    coefficients
        A row for each of `REGIONS`: factors of 1, |x|, y, z, x², y², z², |x|y, |x|z, yz.
    """

    coefficients: tuple[tuple[float, ...], ...]
    identity: str

    def __post_init__(self) -> None:
        if [len(row) for row in self.coefficients] != [10] * len(REGIONS):
            raise ValueError("a partition needs ten coefficients for every region")

    def regions_at(self, points_mni_mm: Points) -> RegionNumbers:
        """Return (n,) indices into `REGIONS` for (n, 3) MNI coordinates, RAS mm."""
        scores = quadratic_terms(points_mni_mm) @ np.array(self.coefficients).T
        numbers: RegionNumbers = scores.argmax(axis=1).astype(np.uint8)
        return numbers


def quadratic_terms(points_mni_mm: Points) -> npt.NDArray[np.float64]:
    """Return (n, 10): 1, |x|, y, z, x², y², z², |x|y, |x|z, yz, coordinates in units of `UNIT_MM`."""
    x, y, z = (np.asarray(points_mni_mm, dtype=np.float64) / UNIT_MM).T
    x = np.abs(x)
    return np.stack([np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)


QUADRICS = Quadrics(_COEFFICIENTS, "quadrics 1")
