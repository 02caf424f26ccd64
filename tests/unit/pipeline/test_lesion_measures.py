"""Measurements of shapes whose answer is known by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.geometry import apply_affine, axial_affine, index_to_lps
from pipeline.measure.diameter import measure_diameter
from pipeline.measure.extremes import face_middles, farthest_pair, row_ends
from pipeline.measure.intensity import measure_mean_intensity, measure_mirrored_intensity
from pipeline.measure.lesion import measure_lesions
from pipeline.measure.long_axis import find_long_axis
from pipeline.measure.midplane import MidPlane, find_midplane, find_midplane_remarks
from pipeline.measure.volume import measure_lesion_load
from pipeline.records import Volume
from tests.factories.volumes import AXIAL, FRAME, SAGITTAL, draw_head, grid_affine, rotation


def plane_at(offset_mm: float) -> MidPlane:
    return MidPlane(np.array([1.0, 0.0, 0.0]), offset_mm, 1.0, estimated=True)


AFFINE = axial_affine((8, 20, 20), (5.0, 2.0, 0.5), (1, 2, 3))


def test_the_long_axis_respects_unequal_pixels() -> None:
    voxels = np.array([[3, row, 7] for row in range(4, 10)] + [[3, 6, column] for column in range(16)])

    axis = find_long_axis(voxels, AFFINE)

    # 16 columns of 0.5 mm are shorter than 6 rows of 2 mm.
    assert axis.length_mm == pytest.approx(12.0)
    assert {axis.start, axis.end} == {(3.5, 7.0), (9.5, 7.0)}
    assert axis.slice_index == 3


def test_the_long_axis_lies_in_one_slice_and_is_its_end_points_distance() -> None:
    voxels = np.argwhere(np.random.default_rng(4).random((8, 20, 20)) > 0.97)

    axis = find_long_axis(voxels, AFFINE)

    ends = [index_to_lps(AFFINE, (axis.slice_index, *end)) for end in (axis.start, axis.end)]
    assert np.linalg.norm(np.subtract(*ends)) == pytest.approx(axis.length_mm)
    edges = face_middles(voxels, (1, 2))
    assert {(axis.slice_index, *end) for end in (axis.start, axis.end)} <= {
        tuple(edge) for edge in edges.tolist()
    }
    best = max(
        float(np.linalg.norm(apply_affine(AFFINE, a) - apply_affine(AFFINE, b)))
        for number in range(8)
        for a, b in itertools.combinations(edges[edges[:, 0] == number], 2)
    )
    assert axis.length_mm == pytest.approx(best)


def test_the_diameter_in_space_is_the_true_one() -> None:
    voxels = np.argwhere(np.random.default_rng(6).random((8, 20, 20)) > 0.95)
    points = apply_affine(AFFINE, face_middles(voxels, (0, 1, 2)))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)

    assert measure_diameter(voxels, AFFINE).value == pytest.approx(apart.max())


@pytest.mark.parametrize(
    ("voxels", "length"),
    # One voxel is as long as its longest side; its neighbours add theirs.
    [
        ([[2, 3, 4]], 5.0),
        ([[2, 3, 4], [2, 3, 15]], np.hypot(5.0, 5.5)),
        ([[2, 3, 4], [3, 3, 4]], 10.0),
        ([[1, r, 4] for r in range(9)], 18.0),
    ],
)
def test_flat_and_tiny_lesions_have_a_diameter(voxels: list[list[int]], length: float) -> None:
    assert measure_diameter(np.array(voxels), AFFINE).value == pytest.approx(length)


def test_row_ends_lose_no_longest_distance() -> None:
    voxels = np.argwhere(np.random.default_rng(8).random((5, 9, 9)) > 0.5)
    points = voxels.astype(float)

    assert farthest_pair(points)[2] == pytest.approx(farthest_pair(row_ends(voxels).astype(float))[2])


def test_a_table_row_holds_what_the_label_map_holds() -> None:
    shape = (12, 14, 16)
    affine = grid_affine(shape, (1.5, 2.0, 0.8), directions=SAGITTAL, centre_mm=(40, -3, 9))
    labels = np.zeros(shape, np.uint16)
    labels[2:6, 3:7, 4:9] = 1
    labels[9, 10, 11:13] = 2
    probability = np.where(labels == 1, 0.75, 0.6).astype(np.float32)
    signal = Volume(np.where(labels > 0, 700.0, 100.0).astype(np.float32), affine, FRAME)

    first, second = measure_lesions(
        Volume(labels, affine, FRAME), probability, {"flair": (signal, np.eye(4))}, plane_at(0.0)
    )

    assert (first.label, first.voxel_count, second.voxel_count) == (1, 80, 2)
    values = {each.name: (each.value, each.unit) for each in first.measurements}
    assert values["volume"] == (pytest.approx(80 * 2.4 / 1000), "ml")
    assert values["mean_intensity_flair"] == (pytest.approx(700.0), "1")
    assert (
        values["maximum_3d_diameter"][0] >= values["long_axis"][0] == pytest.approx(first.long_axis.length_mm)
    )
    assert first.centroid_lps_mm == pytest.approx(index_to_lps(affine, (3.5, 4.5, 6.0)))
    assert first.mean_probability == pytest.approx(0.75)


def test_an_image_that_does_not_reach_the_lesion_is_not_measured() -> None:
    image = Volume(np.ones((4, 4, 4), np.float32), axial_affine((4, 4, 4), (1, 1, 1), (500, 0, 0)), FRAME)

    assert measure_mean_intensity(np.array([[1, 1, 1]]), AFFINE, "t1", image, np.eye(4)) is None


def test_no_brain_has_no_load() -> None:
    assert measure_lesion_load(1.0, 0.0).value == 0.0


def test_the_mirror_image_of_a_lesion_is_measured_where_it_is_healthy() -> None:
    affine = axial_affine((3, 4, 8), (1, 1, 1), (0, 0, 0))
    labels = np.zeros((3, 4, 8), np.uint16)
    labels[1, 1, 6:8] = 1
    labels[1, 1, 0] = 2
    image = Volume(np.broadcast_to(np.arange(8, dtype=np.float32), labels.shape).copy(), affine, FRAME)

    found = measure_mirrored_intensity(
        np.argwhere(labels == 1),
        Volume(labels, affine, FRAME),
        "flair",
        image,
        np.eye(4),
        plane_at(0.0).mirror,
    )

    # Columns 6 and 7 mirror into 1 and 0, and 0 belongs to the other lesion.
    assert found is not None
    assert (found.name, found.value) == ("mirrored_intensity_flair", pytest.approx(1.0))


@pytest.mark.parametrize("turn_deg", [0.0, 12.0, -20.0])
def test_the_sides_are_the_patient_s_when_the_head_is_turned(turn_deg: float) -> None:
    """A lesion just left of the turned head's midline lies right of the scanner's."""
    to_head = np.eye(4)
    to_head[:3, :3] = rotation((0, 0, 1), turn_deg)
    shape = (34, 60, 50)
    image = draw_head(shape, grid_affine(shape, (4, 3, 3), directions=AXIAL), patient_to_head=to_head)
    plane = find_midplane(image, image.with_array((image.array > 150).astype(np.uint8)))
    to_patient = np.linalg.inv(to_head)

    left, right = (apply_affine(to_patient, [[x, -60.0, 5.0]]) for x in (8.0, -8.0))

    assert plane.estimated
    assert plane.tilt_deg == pytest.approx(abs(turn_deg), abs=1.5)
    assert plane.left_of_mm(left)[0] > 5
    assert plane.left_of_mm(right)[0] < -5
    assert find_midplane_remarks(plane) == []
    if turn_deg > 0:
        assert (left[0, 0] > 0) != (plane.left_of_mm(left)[0] > 0)
    # A mirror image of the mirror image is where it was.
    assert np.allclose(plane.mirror @ plane.mirror, np.eye(4))


def test_a_head_without_halves_is_remarked() -> None:
    array = (np.random.default_rng(3).random((20, 20, 20)) > 0.9).astype(np.float32)
    image = Volume(array, axial_affine((20, 20, 20), (8, 8, 8), (0, 0, 0)), FRAME)

    plane = find_midplane(image, image.with_array((array > 0).astype(np.uint8)))

    assert not plane.estimated
    assert [finding.code for finding in find_midplane_remarks(plane)] == ["midline-not-found"]
    assert plane.normal.tolist() == [1.0, 0.0, 0.0]


def test_a_lesion_across_the_midline_lies_on_both_sides() -> None:
    affine = axial_affine((4, 4, 20), (2, 2, 2), (0, 0, 0))
    sides = []
    for columns in (slice(2, 6), slice(14, 18), slice(6, 16), slice(1, 11)):
        labels = np.zeros((4, 4, 20), np.uint16)
        labels[1:3, 1:3, columns] = 1
        volume = Volume(labels, affine, FRAME)
        (lesion,) = measure_lesions(volume, labels.astype(np.float32), {}, plane_at(0.0), 0.5 * labels)
        sides.append(lesion.laterality)
        assert (lesion.mean_probability, lesion.mean_agreement) == (1.0, 0.5)

    assert sides == ["right", "left", "both", "both"]
