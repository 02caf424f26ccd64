"""Whether two images lie on each other by their headers already, so that no registration need be run.

A registration may overrule the headers only by a clear gain of the metric. Where two dozen measurements
around the headers' own alignment bound what can be gained, and the bound is far below that, the answer is
known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Affine
from pipeline.preprocess.metric import ImagePair, QuickMetric

COARSENING = 2
"""The measurements use each second voxel along each axis: one in eight."""
NEAR_MM = 2.0
"""Within so far the metric is taken to be a parabola along each parameter of the motion."""
FAR_MM = 6.0
"""So far away it has to be worse, whichever way the head moves."""
PARAMETERS = 6
"""Three rotations and three shifts."""


@dataclass(frozen=True)
class HeaderFit:
    """What two dozen measurements around the headers' alignment told.

    Attributes
    ----------
    metric
        Negative mutual information there, over one voxel in eight.
    gain
        The share by which it may improve when the moving image leaves that place. Infinite where that is not
        the best place of all that were tried, or the best place along a parameter is not near.
    """

    metric: float
    gain: float


def measure_fit(pair: ImagePair, middle: npt.NDArray[np.float64], radius_mm: float) -> HeaderFit:
    """Return how well the images lie on each other by their headers.

    Parameters
    ----------
    middle
        Centre of the rotations, LPS mm.
    radius_mm
        A rotation by a radian moves the rim of the brain by so much.
    """
    metric = QuickMetric(pair.coarser(COARSENING))

    def measure(parameter: int, distance_mm: float) -> float:
        return metric.measure(_move(parameter, distance_mm, middle, radius_mm))

    at_headers, gain = measure(0, 0.0), 0.0
    for parameter in range(PARAMETERS):
        below, above = measure(parameter, -NEAR_MM), measure(parameter, NEAR_MM)
        # The parabola through the three: its lowest point lies at -slope / bend steps, slope^2 / 2 bend down.
        slope, bend = (above - below) / 2, above + below - 2 * at_headers
        if bend <= 0 or abs(slope) >= bend:
            return HeaderFit(at_headers, math.inf)
        gain += slope**2 / (2 * bend)
        if min(measure(parameter, -FAR_MM), measure(parameter, FAR_MM)) <= at_headers:
            return HeaderFit(at_headers, math.inf)
    return HeaderFit(at_headers, gain / abs(at_headers) if at_headers else math.inf)


def _move(parameter: int, distance_mm: float, middle: npt.NDArray[np.float64], radius_mm: float) -> Affine:
    """Return the motion along one parameter: a turn about an axis through `middle`, or a shift along it."""
    link = np.eye(4)
    axis = parameter % 3
    if parameter >= PARAMETERS // 2:
        link[axis, 3] = distance_mm
        return link
    angle = distance_mm / radius_mm
    second, third = (axis + 1) % 3, (axis + 2) % 3
    link[[second, third], [second, third]] = math.cos(angle)
    link[third, second], link[second, third] = math.sin(angle), -math.sin(angle)
    link[:3, 3] = middle - link[:3, :3] @ middle
    return link
