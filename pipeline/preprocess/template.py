"""Where a brain lies in the MNI template (ICBM 152 2009a).

An affine registration by mutual information, checked before it is believed.

The template is the skull-stripped T1 of Fonov et al., "Unbiased average age-appropriate atlases for pediatric
studies", NeuroImage 54, 2011, averaged to 3 mm by `scripts/template.py`; licence in `ICBM152.txt` beside it.
Fixed sampling seed, one thread; two runs give the same bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK

from pipeline.geometry import Affine, apply_affine, grid_of
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.register import Level, grid_around, middle_of, read_affine, set_up_method, to_sitk
from pipeline.preprocess.resample import sample_gaussian_linear, sample_linear
from pipeline.preprocess.threads import one_thread
from pipeline.records import Finding, Volume

WORKING_SPACING_MM = 3.2
"""Not the template's own 3 mm: two grids that coincide favour the start."""
MARGIN_MM = 8.0
LEVELS: tuple[Level, ...] = ((2, 4.0, 0.5), (1, 1.5, 0.15))
"""Coarse to fine.

On 20 real heads the rim of the brain comes to lie 0.8 mm (median; 1.8 mm in the worst of them) from where all
samples and steps without end would put it. An affine places a brain no better than to some 5 mm.
"""
ITERATIONS = 60
HEAD_RADIUS_MM = 70.0
SMALLEST_OVERLAP = 0.85
LARGEST_SCALE = 1.45
"""Adult brains differ from the template by less along any axis."""
LARGEST_TURN_DEG = 40.0


@dataclass(frozen=True, eq=False)
class TemplateFit:
    """An affine registration to the template.

    Attributes
    ----------
    link
        4x4 from the reference's mm to the template's, both LPS (MNI coordinates as published are RAS: x and y
        change sign).
    overlap
        Dice of the brain and the template's.
    scales
        Largest and smallest stretch of the affine.
    turn_deg
        Angle between the head's and the template's left.
    """

    link: Affine
    overlap: float
    scales: tuple[float, float]
    turn_deg: float

    @property
    def problem(self) -> str:
        """Why the fit is not believed; empty when it is."""
        largest, smallest = self.scales
        if self.overlap < SMALLEST_OVERLAP:
            return (
                f"the brain and the template overlap by {self.overlap:.2f} (Dice); {SMALLEST_OVERLAP} "
                "is needed"
            )
        if largest > LARGEST_SCALE or smallest < 1 / LARGEST_SCALE:
            return f"the brain would be stretched by {smallest:.2f} to {largest:.2f}"
        if self.turn_deg > LARGEST_TURN_DEG:
            return f"the head would be turned by {self.turn_deg:.0f} degrees"
        return ""


@functools.cache
def load_template() -> Volume:
    """Return the template, axial canonical order, LPS mm, zero outside the brain."""
    with np.load(Path(__file__).with_name("icbm152_2009a_3mm.npz")) as arrays:
        spacing = float(arrays["spacing_mm"])
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = spacing
        affine[:3, 3] = arrays["origin_lps_mm"]
        affine[3, 3] = 1.0
        return Volume(arrays["t1"].astype(np.float32), affine, "MNI152NLin2009aSym")


def fit_template(image: Volume, brain: Brain) -> TemplateFit:
    """Register a brain to the template.

    Parameters
    ----------
    image, brain
        The reference image in axial canonical order, and its brain.

    Raises
    ------
    RuntimeError
        The optimiser failed (SimpleITK's message).
    """
    template = load_template()
    # Work on a grid of the brain alone: a network may see a neck, a template has none.
    grid = grid_around(brain, WORKING_SPACING_MM, MARGIN_MM)
    inside = sample_linear(brain.soft, grid) >= brain.threshold
    # Fixed image: the brain without its skull. Moving image: the template, which has none either.
    fixed = to_sitk((sample_gaussian_linear(image, grid) * inside).astype(np.float32), grid)
    moving = to_sitk(template.array, grid_of(template))
    # Affine from patient mm to template mm.
    link = read_affine(_optimise(fixed, moving, _start(brain, template)))
    # Where the template says brain, on the working grid: half a voxel counts as inside.
    template_brain = (
        sample_linear(template.with_array((template.array > 0).astype(np.float32)), grid, link) >= 0.5
    )
    # Dice of the two outlines.
    overlap = 2 * int((inside & template_brain).sum()) / max(int(inside.sum()) + int(template_brain.sum()), 1)
    # The singular values of the linear part are its three scales, largest first.
    stretches = np.linalg.svd(link[:3, :3], compute_uv=False)
    # Where the patient's left points in the template: its angle to left is the turn.
    left = link[:3, 0] / np.linalg.norm(link[:3, 0])
    turn = float(np.degrees(np.arccos(np.clip(left[0], -1.0, 1.0))))
    return TemplateFit(link, overlap, (float(stretches[0]), float(stretches[-1])), turn)


def find_template_remarks(problem: str) -> list[Finding]:
    """Return a remark when there are no MNI coordinates."""
    if not problem:
        return []
    return [Finding("no-template-coordinates", "info", f"No MNI coordinates are given: {problem}.")]


def _start(brain: Brain, template: Volume) -> SimpleITK.AffineTransform:
    """Return the affine that lays the boxes of the two brains on each other.

    Middle on middle, width on width.
    """
    voxels, template_voxels = np.argwhere(brain.mask.array), np.argwhere(template.array)
    transform = SimpleITK.AffineTransform(3)
    transform.SetCenter(middle_of(brain).tolist())
    middle = apply_affine(template.affine, template_voxels.mean(axis=0))
    transform.SetTranslation((middle - middle_of(brain)).tolist())
    # One scale for all axes: the cube root of the volumes' ratio.
    volume = len(voxels) * abs(np.linalg.det(brain.mask.affine[:3, :3]))
    ratio = (len(template_voxels) * abs(np.linalg.det(template.affine[:3, :3])) / volume) ** (1 / 3)
    transform.SetMatrix((np.eye(3) * ratio).ravel().tolist())
    return transform


def _optimise(
    fixed: SimpleITK.Image, moving: SimpleITK.Image, start: SimpleITK.AffineTransform
) -> SimpleITK.Transform:
    with one_thread():
        transform: SimpleITK.Transform = set_up_method(
            start, LEVELS, ITERATIONS, [HEAD_RADIUS_MM**2] * 9 + [1.0] * 3
        ).Execute(fixed, moving)
    return transform
