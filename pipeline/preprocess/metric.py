"""Mattes mutual information of two images of a head: what registrations follow, and compare places by.

Negative, as its followers look for the smallest: Mattes et al., "PET-CT image registration in the chest using
free-form deformations", IEEE Trans Med Imaging 22, 2003.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK
from scipy import ndimage

from pipeline.geometry import Affine
from pipeline.preprocess.splines import cubic_weights

HISTOGRAM_BINS = 32
PADDING_BINS = 2
"""Left empty at both ends of the histogram: the moving image's values are spread over four bins."""
LEAST_SHARE = 1e-16
"""Bins of the joint histogram that hold less count as empty."""


@dataclass(frozen=True, eq=False)
class ImagePair:
    """The images of a registration: the fixed one, its voxels that count, and the one that is moved."""

    fixed: SimpleITK.Image
    mask: SimpleITK.Image
    moving: SimpleITK.Image

    def coarser(self, factor: int) -> ImagePair:
        """Return the pair with each `factor`-th voxel of the fixed image along each axis."""
        # Not `Shrink`: of even factors it takes a voxel half a step beside the place that it notes.
        steps = (slice(None, None, factor),) * 3
        return ImagePair(self.fixed[steps], self.mask[steps], self.moving)


def measuring_method(transform: SimpleITK.Transform) -> SimpleITK.ImageRegistrationMethod:
    """Return a method that measures mutual information, at `transform` or from there on."""
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetInitialTransform(transform, inPlace=False)
    return method


def evaluate(pair: ImagePair, transform: SimpleITK.Transform) -> float:
    """Return negative mutual information over every voxel of the mask, so that transforms compare fairly.

    It is 0 where too few of these voxels fall into the other image: nothing is worse.
    """
    method = measuring_method(transform)
    method.SetMetricFixedMask(pair.mask)
    # Nothing moves here, so nobody needs the gradients: four fifths of the time would go into them.
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    try:
        return float(method.MetricEvaluate(pair.fixed, pair.moving))
    except RuntimeError:
        return 0.0


class QuickMetric:
    """`evaluate` of one pair at many places: what does not change is prepared once.

    The sums are those of ITK's MattesMutualInformationImageToImageMetricv4 up to the rounding of float64:
    bins of the fixed image counted whole, values of the moving one spread by a cubic B-spline.
    """

    def __init__(self, pair: ImagePair) -> None:
        inside = SimpleITK.GetArrayViewFromImage(pair.mask) > 0
        fixed = SimpleITK.GetArrayViewFromImage(pair.fixed)[inside].astype(np.float64)
        self._moving = SimpleITK.GetArrayFromImage(pair.moving)
        # (3, voxel): x, y, z of the fixed image's voxels, mm.
        index = np.argwhere(inside).T[::-1]
        self._points = _to_mm(pair.fixed)[:3, :3] @ index + _to_mm(pair.fixed)[:3, 3:]
        self._to_moving_index = np.linalg.inv(_to_mm(pair.moving))
        self._bins = _find_bins(fixed).astype(np.int64)
        self._range = float(self._moving.min()), float(self._moving.max())

    def measure(self, link: Affine) -> float:
        """Return negative mutual information where `link` takes the fixed image's mm to the moving one's.

        It is 0 where none of the voxels falls into the other image.
        """
        matrix = self._to_moving_index @ link
        # Slice, row and column of the moving image.
        place = (matrix[:3, :3] @ self._points + matrix[:3, 3:])[::-1]
        sizes = np.array(self._moving.shape)[:, None]
        seen = ((place >= -0.5) & (place < sizes - 0.5)).all(axis=0)
        bins = self._bins
        if not seen.all():
            place, bins = place[:, seen], bins[seen]
        if not len(bins):
            return 0.0
        values = ndimage.map_coordinates(self._moving, place, np.float64, order=1, mode="nearest")
        joint = _joint_histogram(bins, _find_places(values, *self._range))
        fixed_share, moving_share = joint.sum(axis=1), joint.sum(axis=0)
        row, column = np.nonzero(joint > LEAST_SHARE)
        shares = joint[row, column]
        return -float((shares * np.log(shares / (fixed_share[row] * moving_share[column]))).sum())


def _to_mm(image: SimpleITK.Image) -> Affine:
    """Return the 4x4 of an image's own (x, y, z) index to mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def _find_places(values: npt.NDArray[np.float64], lowest: float, highest: float) -> npt.NDArray[np.float64]:
    """Return where values lie on the histogram, in bins from its beginning."""
    width = (highest - lowest) / (HISTOGRAM_BINS - 2 * PADDING_BINS)
    return (
        (values - lowest) / width + PADDING_BINS if width > 0 else np.full(len(values), float(PADDING_BINS))
    )


def _find_bins(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the bin of each value between the smallest and the largest, which falls into the last one."""
    ends = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    return np.clip(np.floor(_find_places(values, *ends)), PADDING_BINS, HISTOGRAM_BINS - PADDING_BINS - 1)


def _joint_histogram(bins: npt.NDArray[np.int64], places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (fixed bin, moving bin), the sum is 1."""
    first = np.clip(np.floor(places), PADDING_BINS, HISTOGRAM_BINS - PADDING_BINS - 1)
    # Over four bins, from the one before the value's own.
    flat = bins * HISTOGRAM_BINS + first.astype(np.int64) - 1
    joint = np.zeros(HISTOGRAM_BINS**2)
    for number, weight in enumerate(cubic_weights(places - first)):
        joint += np.bincount(flat + number, weight, minlength=HISTOGRAM_BINS**2)
    joint /= joint.sum()
    return joint.reshape(HISTOGRAM_BINS, HISTOGRAM_BINS)
