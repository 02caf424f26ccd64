"""Real axial slices against synthetic ones: the same measures of both, quartile by quartile.

All measures are taken without tissue maps: from the image, the outline and the depth below the brain's edge,
by the same code for both. So a difference is the images', not the registration's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.counts import counted
from pipeline.training.painted_volumes import FIRST_NUMBER
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.score_slices import AREA_BINS, SMALLEST_PX, find_contrast
from pipeline.training.synthesis.deformation import BRAIN_CENTRE_MM
from pipeline.training.volume_pool import VolumePool, open_volume, scale_volume

Float = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

SLICE_MM = 18.0
"""Height of the real axial slices in MNI space."""
RIM_MM, DEEP_MM = (2.0, 7.0), 14.0
"""How deep below the brain's edge the cortex lies, and from where on there is hardly any."""
BRIGHT_RATIO = 1.3
LESION_MARGIN_MM = 5.0
QUARTILES = (25, 50, 75)
TOLERANCE = 0.10
EDGE_MM = (-4, 8)
"""How far inside and outside an outline its profile is followed."""


def read_synthetic(pool: VolumePool) -> list[RealSlice]:
    """Return the axial slice of each synthetic volume of a pool at the height of the real ones.

    Raises
    ------
    TrainingProblem
        The pool has no synthetic volume.
    """
    slices = []
    for path in pool.paths():
        number = int(path.stem.rpartition("-")[2])
        if number >= FIRST_NUMBER:
            continue
        volume = open_volume(path)
        height = round(volume.shape[1] / 2 + SLICE_MM - BRAIN_CENTRE_MM[0])
        packed = np.ascontiguousarray(volume[:, height])
        image = scale_volume(packed[1])
        if (image > 0).any():
            slices.append(RealSlice("axial", number, image / np.median(image[image > 0]), packed[2] > 0))
    if not slices:
        raise TrainingProblem(f"{pool.folder} holds no synthetic volume: make some with synthesize-volumes")
    return slices


def measure_slice(item: RealSlice) -> dict[str, float]:
    """Return the measures of one slice; those of the lesion only where there is one of `SMALLEST_PX`."""
    brain = ndimage.binary_fill_holes(item.image > 0)
    depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1]
    healthy = brain & (ndimage.distance_transform_edt(~item.mask) > LESION_MARGIN_MM)
    deep = healthy & (depth > DEEP_MM)
    if deep.sum() < 200:
        return {}
    level = float(np.median(item.image[deep]))
    rim = item.image[healthy & (depth >= RIM_MM[0]) & (depth <= RIM_MM[1])]
    smooth = ndimage.gaussian_filter(item.image, 1.0)
    gradient = np.hypot(*np.gradient(smooth))
    measures = {
        "cortex, 75th percentile / deep": float(np.percentile(rim, 75)) / level,
        "fluid, 2nd percentile of the deep brain / deep": float(np.percentile(item.image[deep], 2)) / level,
        "bright white matter, share of the deep brain": float(
            (item.image[deep] > BRIGHT_RATIO * level).mean()
        ),
        "spread of the deep brain / deep": float(np.std(item.image[deep])) / level,
        "gradient, 90th percentile / deep": float(np.percentile(gradient[healthy], 90)) / level,
        "noise / deep": _estimate_noise(item.image, deep) / level,
        "share of the brain at the image's ceiling": float((item.image >= item.image.max())[brain].mean()),
    }
    return measures | (_measure_lesion(item, level) if item.mask.sum() >= SMALLEST_PX else {})


def _estimate_noise(image: Float, region: Mask) -> float:
    """Return the deviation of the noise by Immerkaer's operator (Comput Vis Image Underst 64 (1996) 300)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(ndimage.convolve(image, kernel))[region]
    # The median is less moved by edges than the mean; 0.6745 is that of a normal distribution.
    return float(np.median(response)) / (6.0 * 0.6745)


def _measure_lesion(item: RealSlice, level: float) -> dict[str, float]:
    values = item.image[item.mask & (item.image > 0)]
    contrast = find_contrast(item)
    if not len(values) or not contrast:
        return {}
    area = int(item.mask.sum())
    names = [f"{low} to {high} px" if high < 1_000_000 else f"{low} px and more" for low, high in AREA_BINS]
    size = next(name for name, (low, high) in zip(names, AREA_BINS, strict=True) if low <= area < high)
    mirrored = item.image[:, ::-1]
    pairs = item.mask & (item.image > 0) & (mirrored > 0) & ~item.mask[:, ::-1]
    ratio = item.image[pairs] / mirrored[pairs]
    measures = {
        "lesion, median": float(np.median(values)),
        "lesion, 10th percentile": float(np.percentile(values, 10)),
        f"lesion / mirrored place, {size}": contrast,
        "lesion, spread / deep": float(np.std(values)) / level,
        "lesion at the image's ceiling, share": float((values >= item.image.max()).mean()),
    }
    if len(ratio):
        measures["lesion, share brighter than 1.1 x mirrored"] = float((ratio > 1.1).mean())
        measures["lesion, share darker than 0.9 x mirrored"] = float((ratio < 0.9).mean())
    if contrast > 1.2 and (width := _measure_edge(item)):
        measures["edge of bright lesions, 25 to 75 %, mm"] = width
    return measures


def _measure_edge(item: RealSlice) -> float:
    """Return the width in mm over which the profile across the outline rises from 25 to 75 %; 0 for none."""
    brain = item.image > 0
    # The outline runs half a pixel from the centres of the pixels on both sides of it.
    distance = np.where(
        item.mask,
        0.5 - ndimage.distance_transform_edt(item.mask),
        ndimage.distance_transform_edt(~item.mask) - 0.5,
    )
    steps = np.arange(EDGE_MM[0], EDGE_MM[1] + 1)
    means = []
    for step in steps:
        ring = brain & (np.abs(distance - step) <= 0.75)
        if ring.sum() < 5:
            return 0.0
        means.append(float(np.median(item.image[ring])))
    profile = np.minimum.accumulate(np.array(means))
    top, bottom = profile[0], profile[-1]
    if top <= bottom:
        return 0.0
    share = (profile - bottom) / (top - bottom)
    low, high = np.interp((0.25, 0.75), share[::-1], steps[::-1])
    return float(low - high)


def compare_slices(real: Sequence[RealSlice], synthetic: Sequence[RealSlice]) -> str:
    """Return the table in Markdown: quartiles of both, and whether each lies within `TOLERANCE`."""
    groups = [_collect(slices) for slices in (real, synthetic)]
    lines = [
        (
            f"{counted(len(real), 'real axial slice')}, {counted(len(synthetic), 'synthetic one')}. "
            "Levels are relative to the brain's median, or to that of the deep brain where it says so."
        ),
        "",
        "| measure | real: 25 / 50 / 75 % | synthetic: 25 / 50 / 75 % | n | within 10 % |",
        "|---|---|---|---|---|",
    ]
    within = 0
    names = [name for name in groups[0] if name in groups[1]]
    for name in names:
        quartiles = [np.percentile(group[name], QUARTILES) for group in groups]
        near = near_quartiles(*quartiles)
        within += near
        cells = [" / ".join(f"{value:.3g}" for value in values) for values in quartiles]
        counts = f"{len(groups[0][name])} + {len(groups[1][name])}"
        lines.append(f"| {name} | {' | '.join(cells)} | {counts} | {'yes' if near else 'no'} |")
    return "\n".join(
        [*lines, "", f"{within} of {counted(len(names), 'measure')} within 10 % at all quartiles."]
    )


def near_quartiles(real: npt.NDArray[np.float64], synthetic: npt.NDArray[np.float64]) -> bool:
    """Return whether every synthetic quartile lies within `TOLERANCE` of the real one."""
    return bool((np.abs(synthetic - real) <= TOLERANCE * np.abs(real) + 1e-9).all())


def _collect(slices: Sequence[RealSlice]) -> Mapping[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for item in slices:
        for name, value in measure_slice(item).items():
            groups.setdefault(name, []).append(value)
    return groups
