"""Left stays left and a millilitre stays a millilitre, whatever grid the scanner chose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.geometry import Affine, apply_affine, same_grid
from pipeline.journal import Journal
from pipeline.plan import Recipe
from pipeline.records import Lesion, PipelineResult, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.case import Case
from tests.factories.volumes import (
    AXIAL,
    CORONAL,
    LEFT_BALL,
    RIGHT_BALL,
    SAGITTAL,
    Ball,
    draw_head,
    grid_affine,
    rotation,
)

OBLIQUE = np.array(AXIAL) @ rotation((1, 2, 3), 25).T
GRIDS = {
    "axial": ((70, 90, 75), (2.0, 2.0, 2.0), AXIAL),
    "thick axial slices": ((23, 108, 90), (6.0, 1.7, 1.7), AXIAL),
    "sagittal": ((84, 78, 96), (1.8, 1.9, 1.9), SAGITTAL),
    "coronal": ((76, 80, 80), (2.4, 1.9, 1.9), CORONAL),
    "oblique": ((76, 92, 80), (2.1, 2.0, 2.0), OBLIQUE),
    "anisotropic": ((110, 90, 55), (1.3, 2.0, 2.8), AXIAL),
    "left-handed": ((70, 90, 75), (2.0, 2.0, 2.0), ((0, 0, 1), (0, 1, 0), (-1, 0, 0))),
    "upside down": ((70, 90, 75), (2.0, 2.0, 2.0), ((0, 0, -1), (0, -1, 0), (-1, 0, 0))),
}
CENTRE_MM = (12.0, -31.0, 47.0)


def move(offset: npt.ArrayLike) -> Affine:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def bright(case: Case, journal: Journal) -> Volume:
    """Segment by intensity on the reference's own voxels: half way between brain and lesion is 0.5."""
    image = case.images["flair"]
    return image.with_array(((image.array - 385) / (900 - 385)).clip(0, 1).astype(np.float32))


def volume_ml(lesion: Lesion) -> float:
    return next(each.value for each in lesion.measurements if each.name == "volume")


def assert_found(result: PipelineResult, ball: Ball, lesion: Lesion, image: Volume, tolerance: float) -> None:
    assert volume_ml(lesion) == pytest.approx(ball.volume_ml, rel=tolerance)
    wanted = np.add(ball.at_mm, CENTRE_MM)
    apart = np.abs(np.linalg.inv(image.affine[:3, :3]) @ (wanted - lesion.centroid_lps_mm))
    assert apart.max() < 1
    # The label map agrees with the table.
    voxels = np.argwhere(result.labels.array == lesion.label)
    assert np.allclose(apply_affine(result.labels.affine, voxels).mean(axis=0), lesion.centroid_lps_mm)


@pytest.mark.parametrize("name", GRIDS)
def test_a_lesion_keeps_side_place_and_volume_on(name: str, recipe: Recipe) -> None:
    shape, spacing, directions = GRIDS[name]
    affine = grid_affine(shape, spacing, directions=directions, centre_mm=CENTRE_MM)
    image = draw_head(shape, affine, patient_to_head=move(np.negative(CENTRE_MM)))

    result = run_pipeline({"flair": image}, recipe, segmenter=bright)

    assert same_grid(result.labels, image)
    assert same_grid(result.probability, image)
    assert same_grid(result.brain_mask, image)
    left, right = result.lesions
    assert left.centroid_lps_mm[0] > CENTRE_MM[0] > right.centroid_lps_mm[0]
    assert_found(result, LEFT_BALL, left, image, 0.05)
    assert_found(result, RIGHT_BALL, right, image, 0.05)


@pytest.mark.parametrize("name", ["thick axial slices", "sagittal", "oblique", "left-handed"])
def test_the_network_s_own_grid_loses_nothing_on(name: str, recipe: Recipe) -> None:
    shape, spacing, directions = GRIDS[name]
    affine = grid_affine(shape, spacing, directions=directions, centre_mm=CENTRE_MM)
    image = draw_head(shape, affine, patient_to_head=move(np.negative(CENTRE_MM)))

    result = run_pipeline({"flair": image}, recipe)

    left, right = result.lesions
    assert_found(result, LEFT_BALL, left, image, 0.05)
    # Three voxels of the network across: the blur of its grid takes a little more.
    assert_found(result, RIGHT_BALL, right, image, 0.1)


@pytest.mark.parametrize(
    ("degrees", "shift_mm", "same_frame"),
    [(6.0, (4.0, -3.0, 5.0), True), pytest.param(9.0, (60.0, -80.0, 45.0), False, marks=pytest.mark.slow)],
)
def test_a_moved_t1_is_brought_onto_the_flair(
    degrees: float, shift_mm: tuple[float, ...], same_frame: bool, recipe: Recipe
) -> None:
    flair = draw_head((38, 90, 76), grid_affine((38, 90, 76), (3.6, 2.0, 2.0), directions=AXIAL), noise=8)
    to_head = np.eye(4)
    to_head[:3, :3] = rotation((1, -2, 3), degrees)
    to_head[:3, 3] = -to_head[:3, :3] @ np.array(shift_mm)
    shape, spacing = (84, 78, 96), (1.8, 1.9, 1.9)
    frame = flair.frame_of_reference_uid + ("" if same_frame else ".9")
    place = grid_affine(shape, spacing, directions=SAGITTAL, centre_mm=shift_mm)
    t1 = draw_head(shape, place, contrast="t1", patient_to_head=to_head, frame=frame, noise=8)

    result = run_pipeline({"t1": t1, "flair": flair}, recipe)

    assert result.reference_role == "flair"
    assert same_grid(result.labels, flair)
    link = result.links["t1"]
    points = apply_affine(flair.affine, np.argwhere(result.brain_mask.array)[::501])
    apart = np.linalg.norm(apply_affine(to_head @ link, points) - points, axis=1)
    assert apart.max() < 1.0
    # The T1 is dark where the FLAIR is bright: only a right link reads that.
    darkest = [each.value for each in result.lesions[0].measurements if each.name == "mean_intensity_t1"]
    assert darkest[0] < 220
    codes = {finding.code for finding in result.findings}
    assert ("large-registration-motion" in codes) is (not same_frame)
