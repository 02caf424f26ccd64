"""A lesion planted on the patient's left is left in SEG, SR and table, in every orientation of the source series.

From DICOM files to the files that `dicomnode segment` writes; only the lesion network is replaced, by one that knows the truth. So what
is judged is geometry alone: loading, canonical order, the way back to the source's voxels, encoding, and what highdicom reads.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicomnode import answer
from dicomnode.offline.bids.derivatives import read_table
from dicomnode.offline.cases import OfflineTask, answer_case, dicom_cases
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.results.words import codes
from dicomnode.settings.config import Config, parse_config
from dicomnode.states import Outcome
from pipeline.geometry import apply_affine
from pipeline.records import Volume
from pipeline.run import Case, Journal, run_pipeline
from tests.factories.dicom import LESIONS, phantom_study, voxel_centres
from tests.factories.onnx import brain_manifest, known_lesion_bundle, threshold_graph, write_bundle

LEFT, RIGHT = LESIONS
SERIES: dict[str, dict[str, Any]] = {
    "axial": {"shape": (60, 72, 60), "spacing_mm": (3.0, 3.0, 3.0)},
    "thick axial": {"shape": (32, 96, 80), "spacing_mm": (6.0, 2.2, 2.2)},
    "sagittal": {"plane": "sagittal", "shape": (54, 72, 72), "spacing_mm": (3.0, 3.0, 3.0)},
    "coronal": {"plane": "coronal", "shape": (66, 68, 58), "spacing_mm": (3.0, 3.0, 3.0)},
    "oblique": {"tilt_deg": 21, "shape": (60, 76, 64), "spacing_mm": (3.4, 3.0, 3.0)},
    "oblique sagittal": {
        "plane": "sagittal",
        "tilt_deg": -14,
        "shape": (60, 74, 72),
        "spacing_mm": (3.0, 3.0, 3.0),
    },
    "anisotropic": {"shape": (64, 60, 74), "spacing_mm": (3.0, 3.6, 2.4)},
    "left-handed": {"reverse": True, "shape": (60, 72, 60), "spacing_mm": (3.0, 3.0, 3.0)},
    "left-handed coronal": {
        "plane": "coronal",
        "reverse": True,
        "shape": (66, 68, 58),
        "spacing_mm": (3.0, 3.0, 3.0),
    },
    "enhanced": {"multiframe": True, "shape": (60, 72, 60), "spacing_mm": (3.0, 3.0, 3.0)},
}


def truth(case: Case, journal: Journal) -> Volume:
    """Answer as a perfect network: one where a voxel of the reference has its centre in a lesion."""
    centres_mm = voxel_centres(case.reference.affine, case.reference.shape)
    return case.reference.fill(
        np.any([blob.contains(centres_mm) for blob in LESIONS], axis=0).astype(np.float32)
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    models = tmp_path_factory.mktemp("models")
    known_lesion_bundle(models)
    # Between the scalp and the brain of the phantom.
    write_bundle(models, threshold_graph([1.0], 0.68, [80, 80, 64]), brain_manifest())
    settings = {
        "models": str(models),
        "lesion_model": "known-lesion",
        "brain_model": "known-brain",
        "require_head": False,
    }
    return parse_config({"storage": {"root": str(models)}, "pipeline": settings})


QUICK = ("sagittal", "left-handed coronal")


@pytest.mark.parametrize(
    ("role", "name"),
    [
        *(pytest.param("flair", name, marks=() if name in QUICK else pytest.mark.slow) for name in SERIES),
        pytest.param("t1", "sagittal", marks=pytest.mark.slow),
        pytest.param("t1", "enhanced", marks=pytest.mark.slow),
    ],
)
def test_left_is_left_in_everything_that_leaves(
    role: Any, name: str, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer, "run_pipeline", functools.partial(run_pipeline, segmenter=truth))
    phantom = phantom_study(roles=(role,), **{role: SERIES[name]})
    phantom.write(tmp_path / "in")
    (case,) = dicom_cases([tmp_path / "in"], lambda _: None)

    answered = answer_case(OfflineTask(case, config, tmp_path / "out"))

    assert answered.outcome == Outcome.LESIONS, answered.summary
    folder = tmp_path / "out" / answered.label.folder
    reference = phantom.series[role]
    # SEG, as highdicom reads it.
    seg = hd.seg.segread(folder / "dicom" / "seg.dcm")
    volume = seg.get_volume(combine_segments=True, relabel=False)
    assert volume.coordinate_system == hd.CoordinateSystemNames.PATIENT
    for number, blob in ((1, LEFT), (2, RIGHT)):
        voxels = np.argwhere(volume.array == number)
        centre_mm = apply_affine(volume.affine, voxels).mean(axis=0)
        assert np.sign(centre_mm[0]) == np.sign(blob.center_mm[0])
        apart = np.abs(np.linalg.inv(reference.affine[:3, :3]) @ (centre_mm - blob.center_mm))
        assert apart.max() < 1, "the centroid lies within one voxel"
        # Not a voxel more or less; how well a grid shows a volume is another question (test_run_geometry).
        assert len(voxels) == np.count_nonzero(reference.truth == number)
    sides = [
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue
        for item in seg.SegmentSequence
    ]
    assert sides == [codes.LEFT.value, codes.RIGHT.value]
    # SR: the coded side of each lesion's group, and the words.
    report = pydicom.dcmread(folder / "dicom" / "sr.dcm")
    coded = [
        item.ContentSequence[0].ConceptCodeSequence[0].CodeValue
        for item in walk_content(report)
        if concept(item) == "363698007"
        and "ContentSequence" in item
        and concept(item.ContentSequence[0]) == "272741003"
    ]
    # Two groups a lesion, and a finding site for each region that it lies in.
    left_count = coded.index(codes.RIGHT.value)
    assert coded == [codes.LEFT.value] * left_count + [codes.RIGHT.value] * (len(coded) - left_count)
    assert 2 <= left_count <= len(coded) - 2
    words = [item.TextValue for item in walk_content(report) if item.ValueType == "TEXT"]
    assert any(text.startswith("1. Left") for text in words)
    assert any(text.startswith("2. Right") for text in words)
    assert any("Centres in mm: 1: L 30" in text and "; 2: R 3" in text for text in words)
    # The table, and the NIfTI mask by its own affine (RAS: the left is negative).
    lesions = folder / "anat" / f"{answered.label.stem}_desc-lesions_dseg"
    rows = read_table(lesions.with_suffix(".tsv"))
    assert [row["laterality"] for row in rows] == ["left", "right"]
    assert float(rows[0]["x_lps_mm"]) > 20 > -20 > float(rows[1]["x_lps_mm"])
    mask = nib.load(lesions.with_suffix(".nii.gz"))
    inside = np.argwhere(np.asarray(mask.dataobj) == 1)
    assert nib.affines.apply_affine(mask.affine, inside).mean(axis=0)[0] < -20
