"""Mean signal of a lesion in each image, in the image's own units, before any correction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from pipeline.geometry import Affine, apply_affine
from pipeline.measure.extremes import Index
from pipeline.measure.midplane import MidPlane
from pipeline.records import Measurement, Volume


def measure_signal(
    voxels: Index, labels: Volume, images: Mapping[str, tuple[Volume, Affine]], plane: MidPlane
) -> tuple[Measurement, ...]:
    """Return what is measured of a lesion's signal; a new measure of the signal has its place here.

    Parameters
    ----------
    labels
        Every lesion.
    images
        Role to (image, 4x4 from the reference's mm to the image's mm).
    plane
        The midsagittal plane, in the reference's mm.
    """
    measurements = []
    for role, (image, link) in images.items():
        measurements.append(measure_mean_intensity(voxels, labels.affine, role, image, link))
        measurements.append(measure_mirrored_intensity(voxels, labels, role, image, link, plane.mirror))
    return tuple(measurement for measurement in measurements if measurement is not None)


def measure_mean_intensity(
    voxels: Index, affine: Affine, role: str, image: Volume, link: Affine
) -> Measurement | None:
    """Return the mean of the image at the lesion's voxel centres.

    The result is None where the image does not reach the lesion.

    Parameters
    ----------
    link
        4x4 from the reference's patient mm to the image's patient mm.
    """
    image_index = apply_affine(np.linalg.inv(image.affine) @ link @ affine, voxels)
    inside_image = ((image_index >= -0.5) & (image_index <= np.array(image.array.shape) - 0.5)).all(axis=1)
    if not inside_image.any():
        return None
    values = ndimage.map_coordinates(
        image.array, image_index[inside_image].T, output=np.float64, order=1, mode="nearest"
    )
    return Measurement(
        f"mean_intensity_{role}",
        float(values.mean()),
        "1",
        f"mean of {role.upper()} at the lesion's voxel centres, linear",
    )


def measure_mirrored_intensity(
    voxels: Index, labels: Volume, role: str, image: Volume, link: Affine, mirror: Affine
) -> Measurement | None:
    """Return the mean of the image where the lesion lies on the other side of the head.

    The result is None where nothing healthy is seen there.

    Parameters
    ----------
    labels
        Every lesion: what mirrors into one is left out, as that is no healthy tissue.
    mirror
        4x4 reflection about the midsagittal plane, in the reference's patient mm.
    """
    # Voxels of the lesion, mirrored in mm, back on the reference's grid.
    image_index = np.rint(apply_affine(np.linalg.inv(labels.affine) @ mirror @ labels.affine, voxels)).astype(
        np.intp
    )
    image_index = image_index[((image_index >= 0) & (image_index < labels.array.shape)).all(axis=1)]
    # No lesion there, else it would be compared with another lesion.
    image_index = image_index[labels.array[tuple(image_index.T)] == 0]
    mirrored_intensity = (
        measure_mean_intensity(image_index, labels.affine, role, image, link) if len(image_index) else None
    )
    if mirrored_intensity is None:
        return None
    return Measurement(
        f"mirrored_intensity_{role}",
        mirrored_intensity.value,
        "1",
        f"mean of {role.upper()} at the mirror image of the lesion",
    )
