"""Mattes mutual information of two images of a head: what registrations follow, and compare places by.

Negative, as its followers look for the smallest: Mattes et al., "PET-CT image registration in the chest using
free-form deformations", IEEE Trans Med Imaging 22, 2003.
"""

from __future__ import annotations

from dataclasses import dataclass

import SimpleITK

HISTOGRAM_BINS = 32


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
