"""One study by a network with and without `output.calibration`: the same outlines, another certainty everywhere.

From DICOM files to the files that `dicomnode segment` writes, read back by pydicom, nibabel and by our own reader of the page's text.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicomnode.offline.bids.derivatives import read_table
from dicomnode.offline.cases import OfflineTask, answer_case, dicom_cases
from dicomnode.results.verify.companions import read_lines
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.settings.config import parse_config
from dicomnode.states import Outcome
from tests.factories.dicom import phantom_study
from tests.factories.onnx import brain_manifest, known_lesion_bundle, threshold_graph, write_bundle

KEY: dict[str, Any] = {
    "images": ["flair"],
    "slope": 0.6,
    "volume_slope": 0.384,
    "intercept": -1.419,
    "findings": 309,
    "people": 89,
    "fitted_on": "FLAIR slices of people with an acute stroke",
}


def answer(dicom: Path, folder: Path, **changes: Any) -> Path:
    models = folder / "models"
    known_lesion_bundle(models, **changes)
    write_bundle(models, threshold_graph([1.0], 0.68, [80, 80, 64]), brain_manifest())
    pipeline = {
        "models": str(models),
        "lesion_model": "known-lesion",
        "brain_model": "known-brain",
        "require_head": False,
    }
    (case,) = dicom_cases([dicom], lambda _: None)
    config = parse_config(
        {
            "storage": {"root": str(folder)},
            "pipeline": pipeline,
            "destinations": [
                {
                    "name": "A",
                    "host": "localhost",
                    "port": 104,
                    "ae_title": "A",
                    "objects": ["seg", "sr", "pdf"],
                }
            ],
        }
    )
    answered = answer_case(OfflineTask(case, config, folder / "out"))
    assert answered.outcome == Outcome.LESIONS, answered.summary
    return folder / "out" / answered.label.folder


def stated_certainties(report: pydicom.Dataset) -> list[float]:
    return [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in walk_content(report)
        if concept(item) == "111012"
    ]


@pytest.mark.slow
def test_a_calibration_changes_the_certainty_in_every_object_and_no_voxel(tmp_path: Path) -> None:
    phantom_study(roles=("flair",), flair={"shape": (60, 72, 60), "spacing_mm": (3.0, 3.0, 3.0)}).write(
        tmp_path / "in"
    )

    plain, calibrated = (
        answer(tmp_path / "in", tmp_path / name, **changes)
        for name, changes in (("plain", {}), ("calibrated", {"output__calibration": KEY}))
    )

    masks, tables = [], []
    for folder in (plain, calibrated):
        (mask,) = folder.glob("anat/*_desc-lesions_dseg.nii.gz")
        masks.append(np.asarray(nib.load(mask).dataobj))
        tables.append(read_table(mask.with_name(mask.name.replace(".nii.gz", ".tsv"))))
    assert masks[0].any()
    assert np.array_equal(*masks)
    segs = [pydicom.dcmread(folder / "dicom" / "seg.dcm") for folder in (plain, calibrated)]
    assert segs[0].PixelData == segs[1].PixelData
    assert segs[0].SOPInstanceUID != segs[1].SOPInstanceUID, "another answer has another UID"
    reports = [pydicom.dcmread(folder / "dicom" / "sr.dcm") for folder in (plain, calibrated)]
    before, after = (stated_certainties(report) for report in reports)
    for row_before, row_after, mean, certainty in zip(*tables, before, after, strict=True):
        assert row_before["mean_probability"] == row_after["mean_probability"] == f"{mean / 100:.3f}"
        log_odds = (
            0.6 * math.log(mean / (100 - mean)) + 0.384 * math.log(float(row_after["volume_ml"])) - 1.419
        )
        assert certainty == pytest.approx(100 / (1 + math.exp(-log_odds)), abs=0.1)
        assert row_after["certainty"] == f"{certainty / 100:.3f}"
        assert 0 < certainty < 100
        assert {**row_before, "certainty": ""} == {**row_after, "certainty": ""}
    pages = [
        " ".join(read_lines(pydicom.dcmread(folder / "dicom" / "pdf.dcm").EncapsulatedDocument))
        for folder in (plain, calibrated)
    ]
    assert "certainty not calibrated" in pages[0]
    assert "certainty calibrated on 309 marked lesions in 89 people" in pages[1]
    assert all(f"{certainty:.0f} %" in pages[1] for certainty in after)
    (sidecar,) = calibrated.glob("anat/*_label-L_mask.json")
    algorithm = json.loads(sidecar.read_text())["Algorithm"]
    assert algorithm["parameters"]["certainty"].startswith("calibrated on 309 marked lesions in 89 people")
