"""Series to volumes: every plane, both object families, every compression, damaged input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicomnode.errors import StudyRefused
from dicomnode.records import IndexedInstance, Series, SourceSeries
from dicomnode.simulator.author import write_series
from dicomnode.simulator.enhanced import author_enhanced
from dicomnode.study.assembly import assemble
from dicomnode.study.headers import read_header
from dicomnode.volumes import load as loading
from dicomnode.volumes.load import load_volume
from dicomnode.volumes.pixels import Headers
from pipeline.records import Volume
from tests.factories.dicom import PhantomSeries, phantom_series

# JPEG 2000 halves an image five times.
LARGER: dict[str, Any] = {
    "shape": (12, 40, 64),
    "spacing_mm": (9.0, 4.0, 3.0),
    "study_uid": "1.2.3",
    "frame_of_reference_uid": "1.2.9",
}
SMALL: dict[str, Any] = {
    "shape": (12, 20, 28),
    "spacing_mm": (9.0, 8.0, 5.5),
    "study_uid": "1.2.3",
    "frame_of_reference_uid": "1.2.9",
}


def stored(instances: list[Dataset], folder: Path) -> Series:
    """Write instances and index them as the node does; paths are relative to the folder."""
    paths = write_series(instances, folder)
    indexed = [IndexedInstance(path.relative_to(folder).as_posix(), 0.0, read_header(path)) for path in paths]
    (series,) = assemble("1.2.3", indexed).series
    return series


def loaded(phantom: PhantomSeries, tmp_path: Path) -> tuple[Volume, SourceSeries]:
    volume, source, findings = load_volume(
        stored(phantom.instances, tmp_path), phantom.role, tmp_path, tmp_path
    )
    assert findings == ()
    return volume, source


def assert_same_in_patient(phantom: PhantomSeries, volume: Volume) -> None:
    """The voxels of the volume lie where they were painted; a stack that ran against its normal is reversed along axis 0."""
    array, affine = phantom.array, phantom.affine
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    if affine[:3, 0] @ normal < 0:
        array, last = array[::-1], affine[:3, 3] + (len(array) - 1) * affine[:3, 0]
        affine = affine.copy()
        affine[:3, 3], affine[:3, 0] = last, -affine[:3, 0]
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, array)
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert volume.frame_of_reference_uid == "1.2.9"


@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("plane", "tilt_deg"), [("axial", 0.0), ("sagittal", 0.0), ("coronal", 0.0), ("axial", 17.0)]
)
def test_every_plane_lands_where_it_was_painted(
    tmp_path: Path, plane: str, tilt_deg: float, reverse: bool, multiframe: bool
) -> None:
    phantom = phantom_series(
        "flair", **SMALL, plane=plane, tilt_deg=tilt_deg, reverse=reverse, multiframe=multiframe
    )
    volume, source = loaded(phantom, tmp_path)
    assert_same_in_patient(phantom, volume)
    assert len(source.frames) == 12
    for index, frame in enumerate(source.frames):
        pixels = pydicom.dcmread(frame.path).pixel_array
        assert np.array_equal(volume.array[index], pixels[frame.frame_number - 1] if multiframe else pixels)


def test_instances_may_come_in_any_order_and_number(tmp_path: Path) -> None:
    phantom = phantom_series("t1", **SMALL)
    shuffled = [phantom.instances[index] for index in np.random.default_rng(1).permutation(12)]
    for number, instance in enumerate(shuffled):
        instance.InstanceNumber = str(number + 40)
    volume, source, _ = load_volume(stored(shuffled, tmp_path), "t1", tmp_path, tmp_path)
    assert_same_in_patient(phantom, volume)
    assert [frame.SOPInstanceUID for frame in source.frames] == [
        item.SOPInstanceUID for item in phantom.instances
    ]


@pytest.mark.parametrize("frame_order", ["reversed", "shuffled"])
def test_enhanced_frames_may_stand_in_any_order(tmp_path: Path, frame_order: str) -> None:
    phantom = phantom_series("t1", **SMALL, plane="sagittal", multiframe=True)
    (instance,) = phantom.instances
    order = (
        list(range(12))[::-1] if frame_order == "reversed" else list(np.random.default_rng(3).permutation(12))
    )
    frames = instance.pixel_array
    instance.PixelData = frames[order].tobytes()
    instance.PerFrameFunctionalGroupsSequence = [
        instance.PerFrameFunctionalGroupsSequence[index] for index in order
    ]
    volume, source, _ = load_volume(stored([instance], tmp_path), "t1", tmp_path, tmp_path)
    assert_same_in_patient(phantom, volume)
    back = [order[frame.frame_number - 1] for frame in source.frames]
    assert sorted(back) == list(range(12))
    assert abs(np.diff(back)).max() == 1


def test_enhanced_instances_of_one_frame_each_are_one_volume(tmp_path: Path) -> None:
    whole = phantom_series("t1", **SMALL, plane="coronal")
    instances = []
    for index in range(12):
        affine = whole.affine.copy()
        affine[:3, 3] += index * affine[:3, 0]
        part = author_enhanced(
            whole.array[index : index + 1],
            affine,
            role="t1",
            study_uid="1.2.3",
            frame_of_reference_uid="1.2.9",
        )
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = f"1.2.4.{index + 1}"
        instances.append(part)
    volume, _, _ = load_volume(stored(instances, tmp_path), "t1", tmp_path, tmp_path)
    assert_same_in_patient(whole, volume)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_syntaxes(tmp_path: Path, syntax: Any) -> None:
    phantom = phantom_series("flair", **SMALL)
    for instance in phantom.instances:
        instance.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_little_endian:
            instance.PixelData = np.frombuffer(instance.PixelData, "<u2").astype(">u2").tobytes()
            instance["PixelData"].VR = "OW"
    assert_same_in_patient(phantom, loaded(phantom, tmp_path)[0])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("multiframe", [False, True])
def test_compressed_syntaxes(tmp_path: Path, syntax: Any, multiframe: bool) -> None:
    phantom = phantom_series("flair", **LARGER, multiframe=multiframe)
    for instance in phantom.instances:
        # Not gdcm: its RLE encoder aborts the process.
        plugin = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}[syntax]
        instance.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    assert_same_in_patient(phantom, loaded(phantom, tmp_path)[0])


def rescale_classic(phantom: PhantomSeries) -> np.ndarray:
    for index, instance in enumerate(phantom.instances):
        instance.RescaleSlope, instance.RescaleIntercept, instance.RescaleType = (
            str(1 + index / 4),
            str(index - 3),
            "US",
        )
    factors = np.arange(12)[:, None, None]
    return phantom.array * (1 + factors / 4) + factors - 3


def rescale_shared(phantom: PhantomSeries) -> np.ndarray:
    item = phantom.instances[0].SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    item.RescaleSlope, item.RescaleIntercept = "0.5", "-7"
    return phantom.array * 0.5 - 7


@pytest.mark.parametrize(("multiframe", "rescale"), [(False, rescale_classic), (True, rescale_shared)])
def test_rescale_is_applied(
    tmp_path: Path, multiframe: bool, rescale: Callable[[PhantomSeries], np.ndarray]
) -> None:
    phantom = phantom_series("flair", **SMALL, multiframe=multiframe)
    expected = rescale(phantom)
    assert np.allclose(loaded(phantom, tmp_path)[0].array, expected, rtol=1e-6)


def test_signed_values_that_fill_twelve_bits_keep_their_sign(tmp_path: Path) -> None:
    phantom = phantom_series("t1", **SMALL)
    for instance in phantom.instances:
        values = np.frombuffer(instance.PixelData, "<u2").astype(np.int16) - 1000
        instance.PixelData = (values.astype(np.uint16) & 0x0FFF).tobytes()
        instance.PixelRepresentation, instance.BitsStored, instance.HighBit = 1, 12, 11
        instance.WindowCenter = "0"
    array = loaded(phantom, tmp_path)[0].array
    assert np.array_equal(array, phantom.array.astype(np.float32) - 1000)


def test_jittering_orientations_are_brought_to_one(tmp_path: Path) -> None:
    phantom = phantom_series("flair", **SMALL, tilt_deg=11.0)
    clean = np.array([float(value) for value in phantom.instances[0].ImageOrientationPatient])
    for index, instance in enumerate(phantom.instances):
        jitter = 4e-4 * np.sin(np.arange(6) + index)
        instance.ImageOrientationPatient = [f"{value:.9f}" for value in clean + jitter]
    volume, _, _ = load_volume(stored(phantom.instances, tmp_path), "flair", tmp_path, tmp_path)
    assert np.array_equal(volume.array, phantom.array)
    corners = np.array([[0, 0, 0, 1], [11, 19, 27, 1]]).T
    assert np.abs((volume.affine - phantom.affine) @ corners).max() < 0.15
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-5)


def test_the_source_files_are_not_changed(tmp_path: Path) -> None:
    phantom = phantom_series("flair", **SMALL)
    series = stored(phantom.instances, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.dcm")}
    load_volume(series, "flair", tmp_path, tmp_path)
    assert {path: path.read_bytes() for path in before} == before


def test_conversion_is_quiet(tmp_path: Path) -> None:
    series = stored(phantom_series("flair", **SMALL).instances, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume, source, _ = load_volume(series, "flair", tmp_path, tmp_path)

    assert len(source.frames) == volume.array.shape[0]


def remove_one(instances: list[Dataset]) -> list[Dataset]:
    return instances[:5] + instances[6:]


def set_on(keyword: str, value: Any, indices: range = range(12)) -> Callable[[list[Dataset]], list[Dataset]]:
    def change(instances: list[Dataset]) -> list[Dataset]:
        for index in indices:
            if value is None:
                delattr(instances[index], keyword)
            else:
                setattr(instances[index], keyword, value)
        return instances

    return change


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (remove_one, "missing-slices"),
        (set_on("FrameOfReferenceUID", "1.2.10", range(6)), "several-frames-of-reference"),
        (set_on("FrameOfReferenceUID", None), "frame-of-reference-missing"),
        (set_on("ImagePositionPatient", None, range(3, 4)), "geometry-missing"),
        (set_on("PixelSpacing", None), "geometry-missing"),
        (set_on("ImageType", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), "mosaic-not-supported"),
        (set_on("EchoTime", "30", range(6)), "several-echoes"),
        (set_on("PixelData", b"\0\0" * 20 * 28), "voxels-constant"),
    ],
)
def test_damage_is_refused_by_name(
    tmp_path: Path, damage: Callable[[list[Dataset]], list[Dataset]], code: str
) -> None:
    series = stored(damage(phantom_series("flair", **SMALL).instances), tmp_path)
    with pytest.raises(StudyRefused) as refusal:
        load_volume(series, "flair", tmp_path, tmp_path)
    assert refusal.value.code == code


def test_a_broken_codestream_is_refused_by_name(tmp_path: Path) -> None:
    phantom = phantom_series("flair", **LARGER)
    for instance in phantom.instances:
        instance.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    series = stored(phantom.instances, tmp_path)
    victim = tmp_path / series.instances[3].path
    content = victim.read_bytes()
    start = content.index(b"\xff\x4f\xff\x51")
    victim.write_bytes(content[:start] + b"\0" * (len(content) - start))
    with pytest.raises(StudyRefused) as refusal:
        load_volume(series, "flair", tmp_path, tmp_path)
    assert refusal.value.code == "pixel-data-unreadable"


def test_a_vanished_file_is_refused_by_name(tmp_path: Path) -> None:
    series = stored(phantom_series("flair", **SMALL).instances, tmp_path)
    (tmp_path / series.instances[3].path).unlink()
    with pytest.raises(StudyRefused) as refusal:
        load_volume(series, "flair", tmp_path, tmp_path)
    assert refusal.value.code == "pixel-data-unreadable"


def flipped_rows(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array[:, ::-1], affine


def mirrored(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array, np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine


def moved(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array, affine + np.pad([[0.02]], ((0, 3), (3, 0)))


def cropped(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array[1:], affine


@pytest.mark.parametrize("witness", ["convert_with_dicom2nifti", "convert_with_highdicom"])
@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (flipped_rows, "voxel-disagreement"),
        (mirrored, "geometry-disagreement"),
        (moved, "geometry-disagreement"),
        (cropped, "geometry-disagreement"),
    ],
)
def test_one_lying_converter_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, witness: str, lie: Any, code: str
) -> None:
    honest = getattr(loading, witness)
    monkeypatch.setattr(loading, witness, lambda *args: lie(*honest(*args)))
    series = stored(phantom_series("flair", **SMALL).instances, tmp_path)
    with pytest.raises(StudyRefused) as refusal:
        load_volume(series, "flair", tmp_path, tmp_path)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("lie", "code"),
    [(flipped_rows, "voxel-disagreement"), (moved, None), (mirrored, "geometry-disagreement")],
)
def test_both_lying_alike_is_caught_by_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Any, code: str | None
) -> None:
    for witness in ("convert_with_dicom2nifti", "convert_with_highdicom"):
        honest = getattr(loading, witness)
        monkeypatch.setattr(loading, witness, lambda *args, honest=honest: lie(*honest(*args)))
    series = stored(phantom_series("flair", **SMALL).instances, tmp_path)
    if code is None:
        load_volume(series, "flair", tmp_path, tmp_path)
        return
    with pytest.raises(StudyRefused) as refusal:
        load_volume(series, "flair", tmp_path, tmp_path)
    assert refusal.value.code == code


def test_the_headers_that_come_with_the_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    series = stored(phantom_series("flair", **SMALL).instances, tmp_path)
    headers: Headers = {}

    load_volume(series, "flair", tmp_path, tmp_path, headers=headers)

    assert set(headers) == {tmp_path / instance.path for instance in series.instances}
    for path, header in headers.items():
        in_file = pydicom.dcmread(path, stop_before_pixels=True)
        assert header == in_file
        assert header.file_meta == in_file.file_meta
