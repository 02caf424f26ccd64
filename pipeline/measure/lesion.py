"""Everything that is measured of one lesion."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pipeline.geometry import Affine, apply_affine, index_to_lps, voxel_volume_mm3
from pipeline.measure.certainty import measure_certainty
from pipeline.measure.intensity import measure_signal
from pipeline.measure.laterality import measure_laterality
from pipeline.measure.long_axis import find_long_axis
from pipeline.measure.midplane import MidPlane
from pipeline.measure.regions.shares import Placement, measure_regions, measure_territories
from pipeline.measure.shape import measure_shape
from pipeline.records import Array, Calibration, Lesion, Volume


def measure_lesions(
    labels: Volume,
    probability: Array,
    images: Mapping[str, tuple[Volume, Affine]],
    plane: MidPlane,
    agreement: Array | None = None,
    placement: Placement | None = None,
    calibration: Calibration | None = None,
) -> tuple[Lesion, ...]:
    """Return the lesions of a label map 1..N.

    Parameters
    ----------
    probability, agreement
        On the labels' grid.
    images
        Role to (image, 4x4 from the reference's mm to the image's mm).
    plane
        The midsagittal plane, in the reference's mm.
    placement
        How the head lies in MNI space; None where that is not known.
    calibration
        How a lesion's certainty follows from its mean probability and volume; None: it is the probability.
    """
    lesions, voxel_ml = [], voxel_volume_mm3(labels.affine) / 1000
    for label, box in enumerate(ndimage.find_objects(labels.array), start=1):
        inside = labels.array[box] == label
        voxels = np.argwhere(inside) + [box_range.start for box_range in box]
        centroid = index_to_lps(labels.affine, voxels.mean(axis=0))
        axis, mean_probability = find_long_axis(voxels, labels.affine), float(probability[box][inside].mean())
        lesions.append(
            Lesion(
                label,
                len(voxels),
                centroid,
                axis,
                (
                    *measure_shape(voxels, axis, labels.affine),
                    *measure_signal(voxels, labels, images, plane),
                    measure_certainty(mean_probability, len(voxels) * voxel_ml, calibration),
                ),
                mean_probability,
                measure_laterality(voxels, labels.affine, plane),
                None if agreement is None else float(agreement[box][inside].mean()),
                None if placement is None else to_mni(placement.to_template, centroid),
                () if placement is None else measure_regions(voxels, labels.affine, plane, placement),
                () if placement is None else measure_territories(voxels, labels.affine, placement),
            )
        )
    return tuple(lesions)


def to_mni(to_template: Affine, point_lps_mm: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a point of the reference as MNI coordinates, which are RAS mm.

    To a tenth of a millimetre: the registration is good to a few.
    """
    x, y, z = apply_affine(to_template, np.asarray(point_lps_mm)).tolist()
    return round(-x, 1), round(-y, 1), round(z, 1)
