"""Shares of a lesion: how much of it lies in which region, and in which territory of the site's atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.geometry import Affine, Points, apply_affine
from pipeline.measure.extremes import Index
from pipeline.measure.laterality import measure_laterality
from pipeline.measure.midplane import MidPlane
from pipeline.measure.regions.region_map import REGIONS, RegionMap
from pipeline.measure.regions.territories import TerritoryAtlas
from pipeline.records import RegionShare, TerritoryShare

SMALLEST_SHARE = 0.05
"""Less of a lesion than this is not listed: the registration is good to a few millimetres."""


@dataclass(frozen=True, eq=False)
class Placement:
    """How a head lies in MNI space, and the maps that are known there.

    Attributes
    ----------
    to_template
        4x4 from the reference's mm to the MNI template's, both LPS.
    territories
        The site's atlas; None where there is none.
    """

    to_template: Affine
    region_map: RegionMap
    territories: TerritoryAtlas | None = None


def measure_regions(
    voxels: Index, affine: Affine, plane: MidPlane, placement: Placement
) -> tuple[RegionShare, ...]:
    """Return the regions that a lesion lies in, largest share first.

    Parameters
    ----------
    voxels
        (n, 3) indices (slice, row, column) of the lesion on the grid of `affine`.
    plane
        The patient's midsagittal plane, which decides the sides.
    """
    numbers = placement.region_map.regions_at(mni_points(voxels, affine, placement.to_template))
    shares = []
    for number in np.unique(numbers):
        inside = numbers == number
        share = float(inside.mean())
        if share >= SMALLEST_SHARE:
            side = measure_laterality(voxels[inside], affine, plane)
            shares.append(RegionShare(REGIONS[number], "" if side == "unknown" else side, share))
    return tuple(sorted(shares, key=lambda entry: (-entry.share, REGIONS.index(entry.region))))


def measure_territories(voxels: Index, affine: Affine, placement: Placement) -> tuple[TerritoryShare, ...]:
    """Return the territories that a lesion lies in, largest share first; parameters as above.

    What lies in no territory of the atlas counts for none, so the shares may add up to less than 1.
    """
    atlas = placement.territories
    if atlas is None:
        return ()
    numbers = atlas.labels_at(mni_points(voxels, affine, placement.to_template))
    shares = []
    for number in np.unique(numbers[numbers > 0]):
        share = float((numbers == number).mean())
        if share >= SMALLEST_SHARE:
            territory = atlas.territories[int(number)]
            shares.append(TerritoryShare(int(number), territory.name, share, territory.code))
    return tuple(sorted(shares, key=lambda entry: (-entry.share, entry.number)))


def mni_points(voxels: Index, affine: Affine, to_template: Affine) -> Points:
    """Return the MNI coordinates (RAS mm) of voxels; the template's own mm are LPS."""
    return apply_affine(to_template @ affine, voxels) * (-1.0, -1.0, 1.0)
