"""The images of one study: what is left out is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.errors import StudyRefused
from dicomnode.settings.config import parse_config
from dicomnode.study.choice import ChosenSeries
from dicomnode.volumes import study_images
from dicomnode.volumes.study_images import load_study
from pipeline.records import Volume
from tests.factories.dicom import phantom_study
from tests.factories.headers import make_series
from tests.factories.results import volume_of


def test_a_series_that_could_not_be_used_forbids_the_claim_of_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t1 = make_series("t1", plane="sagittal", count=80, spacing_mm=2.0)
    flair = make_series("flair")

    def load(chosen: ChosenSeries, *_others: object) -> tuple[Volume, object, tuple[()]]:
        if chosen.role == "flair":
            raise StudyRefused("3 slices are missing inside the series.", code="missing-slices")
        return volume, object(), ()

    volume = volume_of(phantom_study(roles=("t1",)).series["t1"], "1.2.9")
    monkeypatch.setattr(study_images, "_load_role", load)
    config = parse_config({"storage": {"root": str(tmp_path)}})

    loaded = load_study("1.2.3", (*t1.instances, *flair.instances), (), config, tmp_path)

    assert list(loaded.volumes) == ["t1"]
    # The negative report claims no absence when a finding of this grade is there.
    assert [(finding.code, finding.grade) for finding in loaded.findings] == [("missing-slices", "refuse")]
