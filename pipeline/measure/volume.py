"""Volumes: voxels counted times the volume of one."""

from __future__ import annotations

from pipeline.records import Measurement

METHOD = "sum of segmented voxel volumes"


def measure_volume(voxel_count: int, voxel_volume_mm3: float, name: str = "volume") -> Measurement:
    """Return the volume in ml.

    >>> measure_volume(500, 2.0).value
    1.0
    """
    return Measurement(name, voxel_count * voxel_volume_mm3 / 1000, "ml", METHOD)


def measure_lesion_count(count: int) -> Measurement:
    """Return how many lesions there are."""
    return Measurement("lesion_count", float(count), "1", "26-connected components above the minimum volume")


def measure_lesion_load(lesion_ml: float, brain_ml: float) -> Measurement:
    """Return the lesions' share of the brain in percent.

    >>> measure_lesion_load(12.0, 1200.0).value
    1.0
    """
    return Measurement(
        "lesion_load",
        100 * lesion_ml / brain_ml if brain_ml else 0.0,
        "%",
        "total lesion volume over brain volume",
    )
