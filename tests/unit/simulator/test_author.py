"""The simulated scanner: geometry, headers and faults, read back from bytes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.spatial import create_affine_matrix_from_attributes
from pydicom.dataset import Dataset

from dicomnode.simulator.author import author_series, derive_uid, stack_affine, write_series
from dicomnode.simulator.enhanced import author_enhanced
from tests.factories.dicom import LEFT_MARKER, LESIONS, phantom_series, phantom_study

PLANES = ["axial", "sagittal", "coronal"]


def reread(instance: Dataset) -> Dataset:
    """Through bytes and back."""
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    return pydicom.dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("tilt_deg", [0.0, 17.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_voxel_lies_where_the_affine_says(plane: str, tilt_deg: float, reverse: bool) -> None:
    shape, spacing_mm = (5, 7, 9), (4.0, 2.0, 1.5)
    affine = stack_affine(plane, shape, spacing_mm, center_mm=(3, -5, 11), tilt_deg=tilt_deg, reverse=reverse)
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)

    instances = author_series(
        array, affine, role="t1", study_uid=derive_uid("s"), frame_of_reference_uid=derive_uid("f")
    )

    for index, instance in enumerate(map(reread, instances)):
        # highdicom is the independent reading: it maps (column, row) to LPS.
        witness = create_affine_matrix_from_attributes(
            instance.ImagePositionPatient,
            instance.ImageOrientationPatient,
            instance.PixelSpacing,
            float(instance.SpacingBetweenSlices),
        )
        assert np.allclose(witness @ [8, 6, 0, 1], affine @ [index, 6, 8, 1], atol=1e-5)
        assert np.array_equal(instance.pixel_array, array[index])
        assert float(instance.SpacingBetweenSlices) == pytest.approx(4.0)


def test_reversed_stack_runs_against_the_normal() -> None:
    determinants = [
        np.linalg.det(stack_affine("axial", (4, 4, 4), (1, 1, 1), reverse=reverse)[:3, :3])
        for reverse in (False, True)
    ]

    # (slice, row, column) of a right-handed DICOM stack is an odd permutation of (column, row, slice).
    assert determinants == pytest.approx([-1, 1])


def test_the_same_call_gives_the_same_bytes_and_another_seed_other_uids() -> None:
    first, again, other = (phantom_study(seed, roles=["flair"]).instances for seed in (1, 1, 2))

    assert [reread(a) == reread(b) for a, b in zip(first, again, strict=True)] == [True] * 32
    assert not {instance.SOPInstanceUID for instance in first} & {
        instance.SOPInstanceUID for instance in other
    }
    assert {
        len({instance[keyword].value for instance in first})
        for keyword in ("SeriesInstanceUID", "StudyInstanceUID")
    } == {1}
    assert all(len(instance.SOPInstanceUID) <= 64 and instance.SOPInstanceUID.is_valid for instance in first)
    assert all(instance.file_meta.MediaStorageSOPInstanceUID == instance.SOPInstanceUID for instance in first)


def test_roles_differ_as_a_scanner_would_write_them() -> None:
    study = phantom_study()
    t1, flair = (reread(study.series[role].instances[0]) for role in ("t1", "flair"))

    assert (t1.MRAcquisitionType, float(t1.EchoTime), float(t1.InversionTime)) == ("3D", 3, 900)
    assert (flair.MRAcquisitionType, float(flair.EchoTime) >= 100, float(flair.InversionTime)) == (
        "2D",
        True,
        2500,
    )
    assert t1.FrameOfReferenceUID == flair.FrameOfReferenceUID
    assert str(t1.PatientName) == "SYNTHETIC^STROKE"


def test_overrides_set_and_remove_in_every_instance() -> None:
    series = phantom_series(
        "t1",
        study_uid="1.2",
        frame_of_reference_uid="1.3",
        shape=(3, 8, 8),
        overrides={"PatientSex": "U", "FrameOfReferenceUID": None},
    )

    assert [instance.PatientSex for instance in series.instances] == ["U"] * 3
    assert not any("FrameOfReferenceUID" in instance for instance in series.instances)


def test_an_edit_of_one_instance_leaves_the_others() -> None:
    series = phantom_series("t1", study_uid="1.2", frame_of_reference_uid="1.3", shape=(3, 8, 8))
    series.instances[0].EchoTime = "77"

    assert float(series.instances[1].EchoTime) == 3


def test_slice_thickness_may_differ_from_the_spacing() -> None:
    instance = phantom_series(
        "flair", study_uid="1.2", frame_of_reference_uid="1.3", shape=(3, 8, 8), slice_thickness_mm=2.5
    ).instances[0]

    assert (float(instance.SliceThickness), float(instance.SpacingBetweenSlices)) == (2.5, 3.0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4)), "slice, row, column"),
        (np.full((1, 2, 2), -1), "0..65535"),
        (np.full((1, 2, 2), 70000), "0..65535"),
    ],
)
def test_what_cannot_be_stored_is_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        author_series(array, np.eye(4), role="t1", study_uid="1.2", frame_of_reference_uid="1.3")


def test_a_sheared_slice_plane_is_refused() -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    affine[0, 2] = 1
    with pytest.raises(ValueError, match="perpendicular"):
        author_series(
            np.ones((2, 4, 4), int), affine, role="t1", study_uid="1.2", frame_of_reference_uid="1.3"
        )


def test_phantom_volumes_and_sides_are_what_they_claim() -> None:
    study = phantom_study(t1={"spacing_mm": (1.5, 1.5, 1.5), "shape": (110, 128, 128)}, roles=["t1"])
    series = study.series["t1"]

    for label, lesion in enumerate(LESIONS, start=1):
        painted_mm3 = (series.truth == label).sum() * 1.5**3
        assert painted_mm3 == pytest.approx(lesion.volume_mm3, rel=0.03)
    # L is +x: the marker's patient coordinates are positive on a sagittal stack, too.
    marker = np.argwhere(series.array > 2000)
    centre_mm = series.affine[:3, :3] @ marker.mean(axis=0) + series.affine[:3, 3]
    assert np.allclose(centre_mm, LEFT_MARKER.center_mm, atol=1.0)


@pytest.mark.parametrize("plane", PLANES)
def test_enhanced_instance_carries_the_same_grid_and_voxels(plane: str) -> None:
    shape = (4, 6, 8)
    affine = stack_affine(plane, shape, (3.0, 2.0, 1.5), tilt_deg=9)
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)

    instance = reread(
        author_enhanced(
            array, affine, role="t1", study_uid=derive_uid("s"), frame_of_reference_uid=derive_uid("f")
        )
    )

    # highdicom sorts the frames along the normal, so it may run our stack backwards; points in patient space may not differ.
    volume = highdicom.Image.from_dataset(instance).get_volume()
    indices = np.argwhere(np.ones(shape))
    points_mm = indices @ affine[:3, :3].T + affine[:3, 3]
    seen = np.rint(volume.map_reference_to_indices(points_mm)).astype(int)
    assert np.array_equal(volume.array[tuple(seen.T)], array[tuple(indices.T)])
    assert "ImagePositionPatient" not in instance
    assert "EchoTime" not in instance


@pytest.mark.tools
@pytest.mark.parametrize("role", ["t1", "flair"])
def test_dciodvfy_finds_no_error_in_an_enhanced_instance(
    role: str, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    array = np.arange(2 * 16 * 16, dtype=np.uint16).reshape(2, 16, 16)
    affine = stack_affine("axial", array.shape, (3, 1, 1))
    instance = author_enhanced(
        array, affine, role=role, study_uid=derive_uid("s"), frame_of_reference_uid=derive_uid("f")
    )
    path = write_series([instance], tmp_path)[0]

    answer = subprocess.run(
        [require_tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )

    assert answer.stderr.startswith("EnhancedMRImage")
    assert "Error" not in answer.stderr


@pytest.mark.tools
@pytest.mark.parametrize("role", ["t1", "flair"])
def test_dciodvfy_finds_no_error(role: str, tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    instances = phantom_series(
        role, study_uid=derive_uid("s"), frame_of_reference_uid=derive_uid("f"), shape=(2, 16, 16)
    ).instances
    path = write_series(instances, tmp_path)[0]

    answer = subprocess.run(
        [require_tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False
    )

    assert answer.stderr.startswith("MRImage")
    assert "Error" not in answer.stderr
