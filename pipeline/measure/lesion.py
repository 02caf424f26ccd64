"""Everything that is measured of one lesion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pipeline.geometry import Affine, index_to_lps, voxel_volume_mm3
from pipeline.measure.diameter import measure_diameter
from pipeline.measure.intensity import measure_mean_intensity
from pipeline.measure.long_axis import find_long_axis, measure_long_axis
from pipeline.measure.volume import measure_volume
from pipeline.records import Array, Lesion, Volume


def measure_lesions(labels: Volume, probability: Array, images: Mapping[str, tuple[Volume, Affine]]) -> tuple[Lesion, ...]:
    """Return the lesions of a label map 1..N.

    Parameters
    ----------
    probability
        On the labels' grid.
    images
        Role to (image, 4x4 from the reference's mm to the image's mm).
    """
    lesions = []
    for label, box in enumerate(ndimage.find_objects(labels.array), start=1):
        inside = labels.array[box] == label
        voxels = np.argwhere(inside) + [part.start for part in box]
        lesions.append(_measure_lesion(label, voxels, labels.affine, float(probability[box][inside].mean()), images))
    return tuple(lesions)


def _measure_lesion(
    label: int, voxels: np.ndarray, affine: Affine, mean_probability: float, images: Mapping[str, tuple[Volume, Affine]]
) -> Lesion:
    axis = find_long_axis(voxels, affine)
    intensities = [measure_mean_intensity(voxels, affine, role, image, link) for role, (image, link) in images.items()]
    measurements = (
        measure_volume(len(voxels), voxel_volume_mm3(affine)),
        measure_long_axis(axis),
        measure_diameter(voxels, affine),
        *(measurement for measurement in intensities if measurement is not None),
    )
    return Lesion(label, len(voxels), index_to_lps(affine, voxels.mean(axis=0)), axis, measurements, mean_probability)
