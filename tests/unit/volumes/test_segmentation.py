"""DICOM-SEG back as masks: the voxels lie in the patient where the lesions were, whatever slices were left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicomnode.errors import StudyRefused
from dicomnode.results.build import build_answer
from dicomnode.volumes.segmentation import read_segmentation
from pipeline.evaluate.lattice import lay_on_grid
from pipeline.geometry import grid_of
from tests.factories.results import answered_study


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_seg_is_read_where_it_lies(tmp_path: Path, plane: str, reverse: bool) -> None:
    grid = {
        "plane": plane,
        "shape": (20, 36, 40),
        "spacing_mm": (6.0, 5.0, 4.5),
        "reverse": reverse,
        "tilt_deg": 8.0,
    }
    study = answered_study(tmp_path, roles=("flair",), flair=grid)
    (seg,) = [
        item for item in build_answer(study.context, study.volume, study.result, ()) if item.kind == "seg"
    ]
    path = tmp_path / seg.filename
    path.write_bytes(seg.data)

    found = read_segmentation(path)
    laid = lay_on_grid(found, grid_of(study.volume), whole=False)

    assert found.array.shape != study.volume.array.shape
    assert found.frame_of_reference_uid == study.volume.frame_of_reference_uid
    assert np.array_equal(laid.array > 0, study.result.labels.array > 0)
    assert laid.array.any()


def test_what_is_no_seg_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no")
    study = answered_study(tmp_path / "study", roles=("flair",))
    image = study.context.sources[0].frames[0].path

    for path in (tmp_path / "text.dcm", image, tmp_path / "absent.dcm"):
        with pytest.raises(StudyRefused, match=path.name) as caught:
            read_segmentation(path)
        assert caught.value.code == "seg-unreadable"
