"""Every real DICOM folder of ../shared/data through headers, assembly, selection, checks and volumes.

What is taken must be what a radiographer would take, and what is refused must be refused for the right reason.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomnode.errors import StudyRefused, UnreadableInstance
from dicomnode.records import IndexedInstance, Role, Study
from dicomnode.settings.config import SelectionSettings, StudySettings
from dicomnode.study.assembly import assemble, readiness, series_completeness
from dicomnode.study.checks import check_series
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.study.selection import select_series
from dicomnode.volumes.load import load_volume
from dicomnode.volumes.pixels import _decode_file

SETTINGS = SelectionSettings()


def read_studies(folder: Path) -> dict[str, Study]:
    """Study Instance UID -> study of every instance below a folder; other files are passed over."""
    instances: dict[str, list[IndexedInstance]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = read_header(path)
        except UnreadableInstance as problem:
            if path.suffix != ".txt":
                pytest.fail(f"{path.name}: {problem}")
            continue
        instances[header.StudyInstanceUID].append(IndexedInstance(str(path), 0.0, header))
    return {uid: assemble(uid, members) for uid, members in instances.items()}


def only_study(folder: Path) -> Study:
    (study,) = read_studies(folder).values()
    return study


# folder, role -> (instances, shape, voxel size in mm, slice direction LPS, minimum correlation of that direction)
TAKEN: list[
    tuple[str, Role, int, tuple[int, int, int], tuple[float, float, float], tuple[float, float, float]]
] = [
    ("ge-t1-3d-cor", "t1", 100, (100, 256, 256), (2.5, 1.0156, 1.0156), (0, 1, 0)),
    ("siemens-xa30-enh-t1", "t1", 1, (96, 128, 128), (2.0, 2.0, 2.0), (-1, 0, 0)),
    ("philips-flair-2d", "flair", 22, (22, 288, 288), (6.0, 0.7986, 0.7986), (0, 0, 1)),
]


@pytest.mark.parametrize(("folder", "role", "count", "shape", "size_mm", "direction"), TAKEN)
def test_the_right_series_is_taken_and_becomes_a_volume(
    real_data: Path,
    tmp_path: Path,
    folder: str,
    role: Role,
    count: int,
    shape: tuple[int, int, int],
    size_mm: tuple[float, float, float],
    direction: tuple[float, float, float],
) -> None:
    study = only_study(real_data / folder)
    selection = select_series(study, SETTINGS)
    assert list(selection.roles) == [role]
    assert selection.findings == ()
    series = next(item for item in study.series if item.SeriesInstanceUID == selection.roles[role])
    assert len(series.instances) == count
    # Philips counts nowhere.
    expected = ["slices-not-counted"] if folder == "philips-flair-2d" else []
    assert [finding.code for finding in check_series(series, role, SETTINGS)] == expected
    volume, source, findings = load_volume(series, role, Path("/"), tmp_path)
    assert (volume.array.shape, findings) == (shape, ())
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), size_mm, atol=1e-3)
    assert volume.affine[:3, 0] / size_mm[0] @ direction > 0.99
    for index in (0, shape[0] // 2, shape[0] - 1):
        frame = source.frames[index]
        pixels = pydicom.dcmread(frame.path).pixel_array
        assert np.array_equal(
            volume.array[index], pixels[frame.frame_number - 1] if pixels.ndim == 3 else pixels
        )


@pytest.mark.parametrize("folder", ["ge-t1-3d-cor", "siemens-xa30-enh-t1"])
def test_counts_of_the_scanner_are_evidence(real_data: Path, folder: str) -> None:
    assert series_completeness(only_study(real_data / folder).series[0]).complete


def test_a_study_without_counts_waits_for_the_quiet_timer(real_data: Path) -> None:
    study = only_study(real_data / "philips-flair-2d")
    settings = StudySettings()
    assert not readiness(study, SETTINGS, settings, 0, 59).ready
    verdict = readiness(study, SETTINGS, settings, 0, 60)
    assert verdict.ready
    assert "no header says how many" in verdict.reason


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("knee-t1-j2k", "wrong-body-part"),
        ("siemens-scouts", "localizer"),
        ("siemens-xa30-derived", "no-usable-series"),
        ("multiecho-gaps", "no-usable-series"),
        ("transfer-syntaxes", "mosaic-not-supported"),
        ("icometrix-mini/failing_slicecount_001", "too-few-slices"),
        ("icometrix-mini/failing_sliceorientation_001", "no-usable-series"),
        ("icometrix-mini/ge_anatomical_001", "too-few-slices"),
        ("icometrix-mini/generic_anatomical_001", "too-few-slices"),
        ("icometrix-mini/generic_anatomical_002_non_isotropic", "no-usable-series"),
    ],
)
def test_what_is_not_for_us_is_refused_by_name(real_data: Path, folder: str, code: str) -> None:
    for study in read_studies(real_data / folder).values():
        selection = select_series(study, SETTINGS)
        assert selection.roles == {}
        assert [(finding.code, finding.grade) for finding in selection.findings] == [(code, "refuse")]
        assert len(selection.reasons) == len(study.series)


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("multiecho-gaps", "several-echoes"),
        ("siemens-scouts", "several-orientations"),
        ("transfer-syntaxes", "mosaic-not-supported"),
        ("icometrix-mini/generic_anatomical_001", "frame-of-reference-missing"),
    ],
)
def test_a_site_rule_cannot_push_it_through_the_checks(
    real_data: Path, tmp_path: Path, folder: str, code: str
) -> None:
    for series in only_study(real_data / folder).series:
        assert code in [finding.code for finding in check_series(series, "t1", SETTINGS)]
        with pytest.raises(StudyRefused) as refusal:
            load_volume(series, "t1", Path("/"), tmp_path)
        assert refusal.value.code == code


def test_the_knee_is_refused_without_its_body_part_too(real_data: Path) -> None:
    study = only_study(real_data / "knee-t1-j2k")
    anonymous = [
        replace(item, header=replace(item.header, BodyPartExamined="", SeriesDescription="", ProtocolName=""))
        for item in study.series[0].instances
    ]
    selection = select_series(assemble("1.2.3", anonymous), SETTINGS)
    assert [(finding.code, finding.grade) for finding in selection.findings] == [
        ("coverage-too-small", "refuse")
    ]


def test_reports_beside_images_ask_for_no_answer(real_data: Path) -> None:
    study = only_study(real_data / "siemens-xa30-derived")
    answerable = {
        item.header.Modality: is_answerable(item.header)
        for series in study.series
        for item in series.instances
    }
    assert answerable == {"MR": True, "SR": False}


CODECS = [
    "anatomical_001",
    "anatomical_001_implicit",
    "compressed_j2k_001",
    "compressed_jpeg_001",
    "compressed_jpegls_001",
    "compressed_rle_001",
]


def test_every_encoding_of_a_series_becomes_the_same_volume(real_data: Path, tmp_path: Path) -> None:
    volumes = {}
    for codec in CODECS:
        study = only_study(real_data / "icometrix-mini" / f"generic_{codec}")
        placed = [
            replace(item, header=replace(item.header, FrameOfReferenceUID="1.2.9"))
            for item in study.series[0].instances
        ]
        (series,) = assemble("1.2.3", placed).series
        volumes[codec] = load_volume(series, "flair", Path("/"), tmp_path)[0]
    for codec, volume in volumes.items():
        assert np.allclose(volume.affine, volumes["anatomical_001"].affine), codec
        # The publisher put other noise into each native copy; the compressed copies are of one.
        if codec.startswith("compressed"):
            assert np.array_equal(volume.array, volumes["compressed_rle_001"].array), codec


def test_nine_transfer_syntaxes_decode_to_the_same_pixels(real_data: Path) -> None:
    frames = [_decode_file(path)[1] for path in sorted((real_data / "transfer-syntaxes" / "dicom").iterdir())]
    assert len(frames) == 9
    assert frames[0].max() > frames[0].min()
    assert all(np.array_equal(other, frames[0]) for other in frames)


def test_real_rescale_and_non_square_pixels(real_data: Path, tmp_path: Path) -> None:
    study = only_study(real_data / "icometrix-mini" / "generic_anatomical_002_non_isotropic")
    placed = [
        replace(item, header=replace(item.header, FrameOfReferenceUID="1.2.9"))
        for item in study.series[0].instances
    ]
    (series,) = assemble("1.2.3", placed).series
    volume, source, _ = load_volume(series, "t1", Path("/"), tmp_path)
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), (0.5, 4.0, 6.4), atol=1e-3)
    for index, frame in enumerate(source.frames):
        instance = pydicom.dcmread(frame.path)
        expected = instance.pixel_array * float(instance.RescaleSlope) + float(instance.RescaleIntercept)
        assert np.allclose(volume.array[index], expected, rtol=1e-6)


def test_a_lost_slice_of_a_real_series_is_noticed(real_data: Path) -> None:
    study = only_study(real_data / "ge-t1-3d-cor")
    kept = [item for item in study.series[0].instances if item.header.InstanceNumber != 41]
    (series,) = assemble("1.2.3", kept).series
    assert "missing-slices" in [finding.code for finding in check_series(series, "t1", SETTINGS)]
    assert not series_completeness(series).complete
