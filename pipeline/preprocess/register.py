"""Rigid registration of one image to the reference: Mattes mutual information over the brain, coarse to fine.

Deterministic: fixed sampling seed, one thread; two runs give the same bits. Rotation is about the middle of
the reference's brain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK

from pipeline.errors import RegistrationError
from pipeline.geometry import Affine, Grid, apply_affine, axial_affine, centre_lps, grid_of
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.header_fit import HeaderFit, measure_fit
from pipeline.preprocess.metric import ImagePair, evaluate, measuring_method
from pipeline.preprocess.resample import find_inside, plan_mask_grid, sample_gaussian_linear, sample_linear
from pipeline.preprocess.threads import one_thread
from pipeline.records import Finding, Volume

WORKING_SPACING_MM = 1.5
MOVING_SPACING_MM = 1.4
"""Not the same as the fixed one.

Two grids that coincide favour the start (interpolation artefact of mutual information).
"""
Level = tuple[int, float, float]
"""(shrink factor, sigma in mm, share of the voxels that are sampled)."""
LEVELS: tuple[Level, ...] = ((4, 3.0, 1.0), (2, 1.0, 0.3), (1, 0.0, 0.1))
"""Coarse to fine."""
ITERATIONS = 80
BRAIN_RADIUS_MM = 70.0
"""A radian moves the rim of the brain by so much.

(SimpleITK's own estimates of the scales stop a degree short on a phantom.)
"""
SEED = 20260
FIXED_MARGIN_MM = 8.0
MOVING_MARGIN_MM = 20.0
MASK_MARGIN_MM = 4.0
LARGE_MOTION_MM = 10.0
LARGE_ROTATION_DEG = 10.0
IMPLAUSIBLE_MOTION_MM = 60.0
IMPLAUSIBLE_ROTATION_DEG = 45.0
SMALLEST_OVERLAP = 0.75
MINIMUM_GAIN = 0.01
"""Share by which the metric must improve before the headers are overruled.

Less is within the noise of the optimiser.
"""
PROVEN_GAIN = 0.25 * MINIMUM_GAIN
"""Where no more can be gained near the headers, they are not overruled, and no search is run."""
FITTING_OVERLAP = 0.9
"""Dice of the two brains at the headers' alignment, below which nothing is proven."""


@dataclass(frozen=True, eq=False)
class RegistrationPlan:
    """What is registered and from where.

    Attributes
    ----------
    grid
        Axial 2 mm grid around the reference's brain on which the metric is computed.
    starts
        Name to 4x4, reference mm to moving mm: "headers" always; "brain centres" too when the frames of
        reference differ.
    """

    grid: Grid
    starts: dict[str, Affine]

    @property
    def trusts_headers(self) -> bool:
        """Whether the headers are the only start."""
        return list(self.starts) == ["headers"]


@dataclass(frozen=True, eq=False)
class Registration:
    """What was found.

    Attributes
    ----------
    link
        4x4 from reference mm to moving mm.
    start
        Name of the start that won.
    metric_before, metric_after
        Negative mutual information at the headers' own alignment and at the result; lower is better. Where
        no search was needed it is that of the proof, over one voxel in eight.
    motion_mm
        How far the middle of the brain moves from the headers' alignment.
    rotation_deg
        Angle of the rotation.
    overlap
        Dice of the two brains where both images see.
    """

    link: Affine
    start: str
    metric_before: float
    metric_after: float
    motion_mm: float
    rotation_deg: float
    overlap: float


def plan_registration(reference: Brain, moving: Brain, *, same_frame: bool) -> RegistrationPlan:
    """Decide the grid and the starts.

    Headers are trusted as a start, and as the only one when both images share a frame of reference.
    """
    starts = {"headers": np.eye(4)}
    if not same_frame:
        shift = np.eye(4)
        shift[:3, 3] = middle_of(moving) - middle_of(reference)
        starts["brain centres"] = shift
    return RegistrationPlan(grid_around(reference, WORKING_SPACING_MM, FIXED_MARGIN_MM), starts)


def apply_registration(
    plan: RegistrationPlan, reference: Volume, moving: Volume, reference_brain: Brain, moving_brain: Brain
) -> Registration:
    """Find the rigid motion from reference mm to moving mm.

    Raises
    ------
    RegistrationError
        The optimiser failed, the motion is implausible, or the brains do not lie on each other afterwards.
    """
    pair = _prepare(plan, reference, moving, reference_brain, moving_brain)
    middle = middle_of(reference_brain)
    overlap = functools.partial(_overlap, reference_brain, moving_brain, moving)
    if fit := _prove_fit(plan, pair, middle, overlap):
        link, before, after, name = np.eye(4), fit.metric, fit.metric, "headers, nothing better near"
    else:
        # One thread: the sums of several threads differ in their last bits from run to run.
        with one_thread():
            before = evaluate(pair, _to_transform(np.eye(4), middle))
            link, after, name = _search(pair, plan, middle, before)
    result = Registration(
        link,
        name,
        before,
        after,
        _distance(link, middle),
        _angle(link),
        overlap(link),
    )
    _check(result)
    return result


def _prepare(
    plan: RegistrationPlan, reference: Volume, moving: Volume, reference_brain: Brain, moving_brain: Brain
) -> ImagePair:
    """Return the two images on the grids on which they are compared."""
    # The reference around its brain on cubes of 1.5 mm, blurred to that spacing: the metric is computed on
    # these voxels.
    fixed = to_sitk(sample_gaussian_linear(reference, plan.grid), plan.grid)
    inside = sample_linear(reference_brain.soft, plan.grid) >= reference_brain.threshold
    # The brain and 4 mm around it: the edge of the brain carries most of the information about a shift.
    mask = SimpleITK.BinaryDilate(
        to_sitk(inside.astype(np.uint8), plan.grid), (round(MASK_MARGIN_MM / WORKING_SPACING_MM),) * 3
    )
    # The moving image on its own cubes (mm of its own frame), with room for the motion.
    around = grid_around(moving_brain, MOVING_SPACING_MM, MOVING_MARGIN_MM)
    return ImagePair(fixed, mask, to_sitk(sample_gaussian_linear(moving, around), around))


def _prove_fit(
    plan: RegistrationPlan,
    pair: ImagePair,
    middle: npt.NDArray[np.float64],
    overlap: Callable[[Affine], float],
) -> HeaderFit | None:
    """Return what proves that a search would end at the headers, None where it may not.

    The two brains, each found in its own image, lie on each other, and little can be gained near there.
    """
    if not plan.trusts_headers or overlap(np.eye(4)) < FITTING_OVERLAP:
        return None
    fit = measure_fit(pair, middle, BRAIN_RADIUS_MM)
    return fit if fit.gain <= PROVEN_GAIN else None


def _search(
    pair: ImagePair, plan: RegistrationPlan, middle: npt.NDArray[np.float64], before: float
) -> tuple[Affine, float, str]:
    """Return the best link of all starts, its metric, and the name of its start."""
    tries = [_optimise(pair, _to_transform(start, middle)) for start in plan.starts.values()]
    # The metric is negative mutual information: the smallest is the best.
    best = min(range(len(tries)), key=lambda k: tries[k][1])
    transform, after = tries[best]
    # Headers are overruled only by a gain beyond the optimiser's own noise; else the two frames are taken to
    # coincide.
    if after > before - MINIMUM_GAIN * abs(before):
        return np.eye(4), before, "headers, not improved"
    return read_affine(transform), after, list(plan.starts)[best]


def find_registration_remarks(result: Registration) -> list[Finding]:
    """Return a remark when the patient moved much between the two images."""
    if result.motion_mm <= LARGE_MOTION_MM and result.rotation_deg <= LARGE_ROTATION_DEG:
        return []
    sentence = "T1 and FLAIR lay far apart and were moved onto each other; check the overlay."
    return [
        Finding(
            "large-registration-motion",
            "warning",
            sentence,
            f"{result.motion_mm:.1f} mm, {result.rotation_deg:.1f} degrees",
        )
    ]


def _check(result: Registration) -> None:
    # Far from the headers' own position (mm at the brain's middle): plausible only where the headers were not
    # believed at all.
    if result.motion_mm > IMPLAUSIBLE_MOTION_MM and result.start.startswith("headers"):
        raise RegistrationError(
            f"T1 and FLAIR would have to move {result.motion_mm:.0f} mm", code="registration-implausible"
        )
    # No head turns so far in a coil.
    if result.rotation_deg > IMPLAUSIBLE_ROTATION_DEG:
        raise RegistrationError(
            f"T1 and FLAIR would have to turn {result.rotation_deg:.0f} degrees",
            code="registration-implausible",
        )
    # The check that needs no metric: the two brains, each found in its own image, must lie on each other
    # (Dice).
    if result.overlap < SMALLEST_OVERLAP:
        raise RegistrationError(
            (
                f"after registration the brains of T1 and FLAIR overlap by {result.overlap:.2f} "
                f"(Dice); {SMALLEST_OVERLAP} is needed"
            ),
            code="registration-no-overlap",
        )


def set_up_method(
    start: SimpleITK.Transform, levels: Sequence[Level], iterations: int, scales: Sequence[float]
) -> SimpleITK.ImageRegistrationMethod:
    """Return what follows the gradient of mutual information from `start`, level by level.

    Make and run it inside `one_thread`.

    Parameters
    ----------
    iterations
        At most so many on each level.
    scales
        One number for each parameter of the transform: how far the brain's rim moves when it changes by 1,
        squared mm.
    """
    method = measuring_method(start)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([share for _, _, share in levels], SEED)
    method.SetShrinkFactorsPerLevel([shrink for shrink, _, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma_mm for _, sigma_mm, _ in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.01, numberOfIterations=iterations, relaxationFactor=0.65
    )
    method.SetOptimizerScales(list(scales))
    return method


def _optimise(pair: ImagePair, start: SimpleITK.Euler3DTransform) -> tuple[SimpleITK.Transform, float]:
    method = set_up_method(start, LEVELS, ITERATIONS, [BRAIN_RADIUS_MM**2] * 3 + [1.0] * 3)
    method.SetMetricFixedMask(pair.mask)
    try:
        transform = method.Execute(pair.fixed, pair.moving)
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[-1]
        raise RegistrationError(f"T1 and FLAIR could not be registered: {reason}") from None
    return transform, evaluate(pair, transform)


def to_sitk(array: npt.NDArray[np.float32] | npt.NDArray[np.uint8], grid: Grid) -> SimpleITK.Image:
    """Wrap an axial canonical array; SimpleITK's index runs (column, row, slice)."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array))
    # Axial canonical: column grows along x, row along y, slice along z, so SimpleITK's own axes are the
    # patient's (LPS mm).
    image.SetOrigin(grid.affine[:3, 3].tolist())
    image.SetSpacing([float(grid.affine[0, 2]), float(grid.affine[1, 1]), float(grid.affine[2, 0])])
    return image


def _to_transform(link: Affine, middle: npt.NDArray[np.float64]) -> SimpleITK.Euler3DTransform:
    transform = SimpleITK.Euler3DTransform()
    transform.SetCenter(middle.tolist())
    transform.SetMatrix(link[:3, :3].ravel().tolist())
    # About a centre c a point goes to R (p - c) + c + t, so t is what the link does to the centre itself
    # (mm).
    transform.SetTranslation((apply_affine(link, middle) - middle).tolist())
    return transform


def read_affine(transform: SimpleITK.Transform) -> Affine:
    """Read a transform by where it takes the origin and the three unit points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    link = np.eye(4)
    for axis in range(3):
        point = [0.0, 0.0, 0.0]
        point[axis] = 1.0
        link[:3, axis] = np.array(transform.TransformPoint(point)) - origin
    link[:3, 3] = origin
    return link


def _overlap(reference: Brain, moving: Brain, moving_image: Volume, link: Affine) -> float:
    """Dice of the two brains on the reference's extractor grid, only where the moving image sees."""
    grid = grid_of(reference.mask)
    # The moving brain on the reference's voxels.
    moving_brain = sample_linear(moving.soft, grid, link) >= moving.threshold
    covered = find_inside(moving_image, grid, link)
    reference_brain = (reference.mask.array > 0) & covered
    # Dice: twice what both share over the sum of the two.
    total = int(reference_brain.sum()) + int((moving_brain & covered).sum())
    return 2 * int((reference_brain & moving_brain).sum()) / total if total else 0.0


def middle_of(brain: Brain) -> npt.NDArray[np.float64]:
    """Return the middle of a brain, LPS mm."""
    return apply_affine(brain.mask.affine, np.argwhere(brain.mask.array).mean(axis=0))


def grid_around(brain: Brain, spacing: float, margin_mm: float) -> Grid:
    """Return an axial grid of cubes around the brain's box and a margin on each side."""
    tight = plan_mask_grid(brain.mask, (spacing,) * 3, (1, 1, 1))
    first, second, third = (n + 2 * round(margin_mm / spacing) for n in tight.shape)
    shape = (first, second, third)
    return Grid(
        shape, axial_affine(shape, (spacing,) * 3, centre_lps(tight)), brain.mask.frame_of_reference_uid
    )


def _distance(link: Affine, point: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(apply_affine(link, point) - point))


def _angle(link: Affine) -> float:
    # The trace of a rotation by an angle a about any axis is 1 + 2 cos(a).
    return float(np.degrees(np.arccos(np.clip((np.trace(link[:3, :3]) - 1) / 2, -1.0, 1.0))))
