"""The patient's own midsagittal plane, so that left and right follow the head and not the scanner.

The plane is the one about which the brain and the signal in it are most alike their mirror image, searched
over yaw, roll and offset on a coarse grid. Method after Liu, Collins & Rothfus, "Robust midsagittal plane
extraction from normal and pathological 3-D neuroradiology images", IEEE TMI 20(3), 2001, with the overlap of
the two signals as the measure.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from pipeline.geometry import Affine, apply_affine, as_shape, axial_affine, spacing_mm
from pipeline.records import Finding, FloatArray, Volume

GRID_MM = 6.0
SEARCHED_DEG = (-24.0, -12.0, 0.0, 12.0, 24.0)
MINIMUM_SYMMETRY = 0.75
"""Below this likeness of the two sides no plane halves the head.

The scanner's own plane through the middle of the brain is taken instead.
"""
BRIGHTEST_PERCENTILE = 95.0


@dataclass(frozen=True, eq=False)
class MidPlane:
    """A plane in LPS mm: a point lies left of it where `normal @ point - offset_mm` is above zero.

    Attributes
    ----------
    symmetry
        0..1, how alike the brain and its mirror image are about the plane.
    estimated
        False when no plane halved the head and the scanner's left was taken.
    """

    normal: npt.NDArray[np.float64]
    offset_mm: float
    symmetry: float
    estimated: bool

    @property
    def tilt_deg(self) -> float:
        """Angle between the plane's left and the scanner's left."""
        return float(np.degrees(np.arccos(np.clip(self.normal[0], -1.0, 1.0))))

    def left_of_mm(self, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return how far points (..., 3) lie to the patient's left of the plane."""
        distance: npt.NDArray[np.float64] = points_mm @ self.normal - self.offset_mm
        return distance

    @property
    def mirror(self) -> Affine:
        """4x4 that takes a point in LPS mm to its mirror image."""
        matrix = np.eye(4)
        matrix[:3, :3] -= 2 * np.outer(self.normal, self.normal)
        matrix[:3, 3] = 2 * self.offset_mm * self.normal
        return matrix


def find_midplane(image: Volume, brain: Volume) -> MidPlane:
    """Return the midsagittal plane of a brain.

    Parameters
    ----------
    image, brain
        The reference image and its brain mask (0 or 1), on one grid, with at least one voxel of brain.
    """
    # Centre of mass of the brain, LPS mm: every candidate plane is described by its distance from it.
    middle = apply_affine(brain.affine, np.argwhere(brain.array).mean(axis=0))
    # The signal on 6 mm cubes, so that one evaluation costs a few thousand voxels.
    coarse, points_mm, affine = _sample_coarsely(image, brain, middle)
    to_index, signal = np.linalg.inv(affine), coarse.ravel()

    def difference(pose: npt.ArrayLike, every: int = 1) -> float:
        # Mirror each cube's centre (mm) about the plane, look the signal up there (index), and compare.
        plane = _plane(np.asarray(pose, dtype=np.float64), middle)
        indices = apply_affine(to_index @ plane.mirror, points_mm[::every])
        mirrored = ndimage.map_coordinates(coarse, indices.T, order=1, mode="constant")
        # 0 where both halves are alike, 1 where they share nothing: the overlap of two signals, turned round.
        return float(np.abs(signal[::every] - mirrored).sum() / (2 * signal[::every].sum()))

    # Coarse search: 25 directions 12 degrees apart through the centre, on every 7th cube.
    starts = [(yaw, roll, 0.0) for yaw, roll in itertools.product(SEARCHED_DEG, SEARCHED_DEG)]
    start = min(starts, key=lambda pose: difference(pose, 7))
    # Refine yaw and roll (degrees) and offset (mm) together; the first steps are about half of the coarse
    # grid's.
    simplex = np.array([start, *(np.add(start, step) for step in ((8.0, 0, 0), (0, 8.0, 0), (0, 0, 6.0)))])
    optimum = optimize.minimize(
        difference,
        start,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 0.2, "fatol": 1e-4, "maxiter": 90},
    )
    symmetry = 1.0 - float(optimum.fun)
    # Too unlike to be two halves of one head: the scanner's x axis through the centre is the safer left and
    # right.
    if symmetry < MINIMUM_SYMMETRY:
        return MidPlane(np.array([1.0, 0.0, 0.0]), float(middle[0]), symmetry, estimated=False)
    plane = _plane(optimum.x, middle)
    return MidPlane(plane.normal, plane.offset_mm, symmetry, estimated=True)


def find_midplane_remarks(plane: MidPlane) -> list[Finding]:
    """Return a remark when no plane halves the head."""
    if plane.estimated:
        return []
    sentence = (
        "The two halves of the brain are too unlike to find the midline; left and right are "
        "the scanner's, from the brain's middle."
    )
    return [Finding("midline-not-found", "warning", sentence, f"{plane.symmetry:.2f}")]


def _plane(pose: npt.NDArray[np.float64], middle: npt.NDArray[np.float64]) -> MidPlane:
    """Return the plane of (yaw, roll in degrees, offset from the middle in mm)."""
    # Unit normal towards the patient's left (+x in LPS): turned by yaw about the head's long axis, then
    # lifted by roll.
    yaw, roll = np.radians(pose[:2])
    normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
    return MidPlane(normal, float(normal @ middle) + float(pose[2]), 0.0, estimated=True)


def _sample_coarsely(
    image: Volume, brain: Volume, middle: npt.NDArray[np.float64]
) -> tuple[FloatArray, npt.NDArray[np.float64], Affine]:
    """Return the brain's signal (0..1, zero outside) on an axial grid of cubes, the cubes' centres in mm.

    The second value is the grid's affine.

    Half of the signal is the mask itself, so that outline and content count alike; what is very bright counts
    no more than bright.
    """
    inside = brain.array > 0
    # Brain signal on 0.5..1 (outside 0): the 95th percentile counts as fully bright.
    bright = max(float(np.percentile(image.array[inside], BRIGHTEST_PERCENTILE)), 1e-6)
    signal = np.where(inside, 0.5 + 0.5 * (image.array / bright).clip(0.0, 1.0), 0.0).astype(np.float32)
    # Blur each axis to the coarse spacing first, or thin structures would alias; sigma in voxels of that
    # axis.
    for axis, size in enumerate(spacing_mm(image.affine)):
        if size < GRID_MM:
            signal = ndimage.gaussian_filter1d(signal, 0.42 * np.sqrt((GRID_MM / size) ** 2 - 1), axis=axis)
    # How far the brain reaches from its centre along x, y, z in mm, turned into slice, row, column; two cubes
    # of room.
    reach_mm = (
        np.abs(apply_affine(brain.affine, np.argwhere(inside)[::17]) - middle).max(axis=0)[::-1] + 2 * GRID_MM
    )
    shape = as_shape(tuple(2 * int(np.ceil(reach / GRID_MM)) + 1 for reach in reach_mm))
    affine = axial_affine(shape, (GRID_MM, GRID_MM, GRID_MM), middle)
    # Centres of all cubes: in LPS mm for the mirroring, and as source voxel indices for the sampling.
    index = np.argwhere(np.ones(shape, bool))
    points_mm, indices = (
        apply_affine(affine, index),
        apply_affine(np.linalg.inv(image.affine) @ affine, index),
    )
    coarse: FloatArray = ndimage.map_coordinates(signal, indices.T, order=1, mode="constant").reshape(shape)
    return coarse, points_mm, affine
