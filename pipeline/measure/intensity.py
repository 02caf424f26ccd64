"""Mean signal of a lesion in each image, in the image's own units, before any correction."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline.geometry import Affine, apply_affine
from pipeline.measure.extremes import Index
from pipeline.records import Measurement, Volume


def measure_mean_intensity(voxels: Index, affine: Affine, role: str, image: Volume, link: Affine) -> Measurement | None:
    """Return the mean of the image at the lesion's voxel centres; None where the image does not reach the lesion.

    Parameters
    ----------
    link
        4x4 from the reference's patient mm to the image's patient mm.
    """
    places = apply_affine(np.linalg.inv(image.affine) @ link @ affine, voxels)
    seen = ((places >= -0.5) & (places <= np.array(image.array.shape) - 0.5)).all(axis=1)
    if not seen.any():
        return None
    values = ndimage.map_coordinates(image.array, places[seen].T, output=np.float64, order=1, mode="nearest")
    return Measurement(f"mean_intensity_{role}", float(values.mean()), "1", f"mean of {role.upper()} at the lesion's voxel centres, linear")


def measure_mirrored_intensity(voxels: Index, labels: Volume, role: str, image: Volume, link: Affine, mirror: Affine) -> Measurement | None:
    """Return the mean of the image where the lesion lies on the other side of the head; None where nothing healthy is seen there.

    Parameters
    ----------
    labels
        Every lesion: what mirrors into one is left out, as that is no healthy tissue.
    mirror
        4x4 reflection about the midsagittal plane, in the reference's patient mm.
    """
    places = np.rint(apply_affine(np.linalg.inv(labels.affine) @ mirror @ labels.affine, voxels)).astype(np.intp)
    places = places[((places >= 0) & (places < labels.array.shape)).all(axis=1)]
    places = places[labels.array[tuple(places.T)] == 0]
    found = measure_mean_intensity(places, labels.affine, role, image, link) if len(places) else None
    if found is None:
        return None
    return Measurement(f"mirrored_intensity_{role}", found.value, "1", f"mean of {role.upper()} at the mirror image of the lesion")
