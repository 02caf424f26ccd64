"""Results as other people's programs read them: dciodvfy, dsrdump, and dcmqi (which 3D Slicer and MITK read with)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (the name that its manual uses)
from scipy import ndimage

from dicomnode.errors import StudyRefused
from dicomnode.records import IndexedInstance, Role
from dicomnode.results.build import build_answer, build_refusal
from dicomnode.results.records import AnswerContext
from dicomnode.results.verify.gate import verify_answer
from dicomnode.settings.config import ResultSettings
from dicomnode.states import Outcome
from dicomnode.study.assembly import assemble
from dicomnode.study.headers import read_header
from dicomnode.volumes.load import load_volume
from pipeline.errors import GeometryError
from pipeline.geometry import apply_affine
from tests.factories.dicom import Blob
from tests.factories.results import CHANGES, CREATED_AT, Answered, answered_study, followed, make_result

RequireTool = Callable[[str], str]

STUDIES: dict[str, dict[str, Any]] = {
    "both": {},
    "enhanced": {"flair": {"multiframe": True}},
    "coronal t1": {"roles": ("t1",), "t1": {"plane": "coronal", "shape": (40, 53, 63)}},
    "oblique": {
        "roles": ("flair",),
        "flair": {"tilt_deg": 14, "shape": (20, 40, 56), "spacing_mm": (7.5, 3.5, 4.25)},
    },
    "negative": {"found": False},
    "merged": {"settings": ResultSettings(maximum_segments=1)},
}
FOLLOWED = ("both", "negative", "merged")
REAL: dict[str, tuple[str, Role]] = {
    "philips-flair-2d/flair": ("philips-flair-2d/flair", "flair"),
    "ge-t1-3d-cor": ("ge-t1-3d-cor/dicom", "t1"),
    "siemens-xa30-enh-t1": ("siemens-xa30-enh-t1/dicom", "t1"),
}


def real_study(folder: Path, role: Role, work_dir: Path) -> Answered:
    """Load a real series as the node does, with two made-up lesions of different size, off every middle."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt")
    instances = [IndexedInstance(str(path), 0.0, read_header(path)) for path in paths]
    study_uid = instances[0].header.StudyInstanceUID
    (series,) = assemble(study_uid, instances).series
    volume, source, _ = load_volume(series, role, Path("/"), work_dir)
    shape = np.array(volume.array.shape)
    middle = apply_affine(volume.affine, (shape - 1) / 2)
    index = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    points_mm = apply_affine(volume.affine, index) - middle
    labels = np.zeros(tuple(shape), np.uint16)
    for label, blob in enumerate(
        (Blob((31, 17, 14), (16, 12, 13)), Blob((-26, -30, 5), (8, 10, 11))), start=1
    ):
        labels[blob.contains(points_mm)] = label
    context = AnswerContext(study_uid, 1, (source,), ResultSettings(), "0.1.0", CREATED_AT, paths[0])
    return Answered(context, volume, make_result(labels, volume, role))


def write_answer(answered: Answered, folder: Path) -> dict[str, Path]:
    """Build, verify and write the results; one folder each, as dcmqi wants it."""
    results = build_answer(answered.context, answered.volume, answered.result, ())
    verify_answer(results, answered.context, answered.volume, answered.result)
    written = {}
    for item in results:
        written[item.kind] = folder / item.kind / item.filename
        written[item.kind].parent.mkdir(parents=True)
        written[item.kind].write_bytes(item.data)
    return written


def validate(dciodvfy: str, path: Path, *, real: bool = False, own_codes: bool = False) -> None:
    answer = subprocess.run([dciodvfy, "-new", str(path)], capture_output=True, text=True, check=False)
    lines = (answer.stdout + answer.stderr).splitlines()

    assert [line for line in lines if line.startswith("Error")] == []
    assert answer.returncode == 0
    if real:  # odd names and dates are the source's, and identity is copied as it is
        return
    # The 2022 dciodvfy does not know Device UID in this sequence (PS3.3 C.12.1.1.5, CP 2031), and no coding scheme that it has no name
    # for, though a private one is to be told (PS3.3 C.12.1); nothing else is warned about.
    expected = ("DeviceUID", *(["Unrecognized defined term = <99DICOMNODE>"] if own_codes else []))
    assert [
        line for line in lines if line.startswith("Warning") and not any(words in line for words in expected)
    ] == []


def read_labels(segimage2itkimage: str, seg: Path, answered: Answered) -> np.ndarray:
    """Return the label map that dcmqi sees, placed on the reference grid by patient coordinates alone."""
    out = seg.parent / "itk"
    out.mkdir()
    command = [
        segimage2itkimage,
        "--inputDICOM",
        str(seg),
        "--outputDirectory",
        str(out),
        "-t",
        "nrrd",
        "--mergeSegments",
    ]
    subprocess.run(command, capture_output=True, check=True)
    (path,) = out.glob("*.nrrd")
    image = sitk.ReadImage(str(path))
    voxels = np.argwhere(sitk.GetArrayViewFromImage(image))
    points_mm = np.array(
        [image.TransformIndexToPhysicalPoint([int(i) for i in voxel[::-1]]) for voxel in voxels]
    )
    index = apply_affine(np.linalg.inv(answered.volume.affine), points_mm)
    assert np.abs(index - np.rint(index)).max() < 0.05
    seen = np.zeros(answered.volume.array.shape, dtype=int)
    seen[tuple(np.rint(index).astype(int).T)] = sitk.GetArrayViewFromImage(image)[tuple(voxels.T)]
    return seen


def read_report(tid1500reader: str, sr: Path) -> dict[str, Any]:
    target = sr.with_suffix(".json")
    subprocess.run(
        [tid1500reader, "--inputDICOM", str(sr), "--outputMetadata", str(target)],
        capture_output=True,
        check=True,
    )
    content: dict[str, Any] = json.loads(target.read_text())
    return content


@pytest.mark.tools
@pytest.mark.parametrize("name", STUDIES)
def test_validators_pass_every_kind_of_result(tmp_path: Path, require_tool: RequireTool, name: str) -> None:
    dciodvfy, dsrdump = require_tool("dciodvfy"), require_tool("dsrdump")
    study = answered_study(tmp_path / "in", **STUDIES[name])
    written = write_answer(study, tmp_path / "out")
    if name in FOLLOWED:
        changes = tuple(change for change in CHANGES if change.label is None or study.result.lesions)
        later = write_answer(followed(study, changes), tmp_path / "later")
        validate(dciodvfy, later["sr"], own_codes=True)

    for path in written.values():
        # The signal relative to the other side has a code of our own.
        validate(dciodvfy, path, own_codes=True)
    dump = subprocess.run([dsrdump, "+Pl", str(written["sr"])], capture_output=True, text=True, check=False)
    assert dump.returncode == 0
    assert dump.stderr == ""
    assert "synthetic data" in dump.stdout


@pytest.mark.tools
@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.FAILED])
def test_validators_pass_a_refusal(tmp_path: Path, require_tool: RequireTool, outcome: Outcome) -> None:
    answered = answered_study(tmp_path / "in")
    context = replace(answered.context, sources=())
    (report,) = build_refusal(
        context, "slice-missing", "The FLAIR has a gap after slice 7; send it again.", (), outcome
    )
    path = tmp_path / report.filename
    path.write_bytes(report.data)

    validate(require_tool("dciodvfy"), path)
    dump = subprocess.run(
        [require_tool("dsrdump"), "+Pl", str(path)], capture_output=True, text=True, check=False
    )
    assert (dump.returncode, dump.stderr) == (0, "")
    assert "send it again" in dump.stdout


@pytest.mark.tools
@pytest.mark.parametrize("name", [name for name in STUDIES if name not in {"negative", "merged"}])
def test_dcmqi_sees_each_lesion_where_it_is(tmp_path: Path, require_tool: RequireTool, name: str) -> None:
    answered = answered_study(tmp_path / "in", **STUDIES[name])
    written = write_answer(answered, tmp_path / "out")

    seen = read_labels(require_tool("segimage2itkimage"), written["seg"], answered)

    assert np.array_equal(seen, answered.result.labels.array)


@pytest.mark.tools
def test_dcmqi_reads_the_measurements(tmp_path: Path, require_tool: RequireTool) -> None:
    answered = followed(answered_study(tmp_path / "in"))
    written = write_answer(answered, tmp_path / "out")

    content = read_report(require_tool("tid1500reader"), written["sr"])
    volumes = [
        float(item["value"])
        for group in content["Measurements"]
        for item in group["measurementItems"]
        if item["quantity"]["CodeValue"] == "118565006" and group["TrackingIdentifier"].startswith("Lesion ")
    ]

    expected = [
        item.value
        for lesion in answered.result.lesions
        for item in lesion.measurements
        if item.name == "volume"
    ]
    assert volumes == pytest.approx(expected, rel=1e-5)
    changes = {
        group["TrackingIdentifier"]: item["conceptValue"]["CodeMeaning"]
        for group in content["Measurements"]
        for item in group.get("qualitativeEvaluations", [])
        if item["conceptCode"]["CodeValue"] == "change" and group["TrackingIdentifier"].startswith("Lesion ")
    }
    assert changes == {"Lesion 1": "Increase in size", "Lesion 2": "New lesion"}


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_results_on_real_series_hold_in_every_tool(
    tmp_path: Path, real_data: Path, require_tool: RequireTool, name: str
) -> None:
    folder, role = REAL[name]
    answered = real_study(real_data / folder, role, tmp_path)
    assert ndimage.label(answered.result.labels.array)[1] == 2
    written = write_answer(answered, tmp_path / "out")

    validate(require_tool("dciodvfy"), written["seg"], real=True)
    validate(require_tool("dciodvfy"), written["sr"], real=True)
    assert np.array_equal(
        read_labels(require_tool("segimage2itkimage"), written["seg"], answered), answered.result.labels.array
    )


def test_images_without_a_frame_of_reference_are_refused_by_name(tmp_path: Path, real_data: Path) -> None:
    folder = real_data / "icometrix-mini" / "generic_anatomical_001"

    with pytest.raises((StudyRefused, GeometryError)) as caught:
        real_study(folder, "flair", tmp_path)

    assert caught.value.code == "frame-of-reference-missing"
