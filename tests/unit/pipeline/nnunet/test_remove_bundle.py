"""Removing a bundle: the one that is named, whole, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")

from pipeline.importing.problem import ImportProblem
from pipeline.importing.remove import remove_bundle
from pipeline.segmenters.families import list_bundles
from tests.factories.families import write_ensemble
from tests.factories.onnx import known_brain_bundle, known_lesion_bundle


def test_one_version_is_removed_and_the_rest_stays(tmp_path: Path) -> None:
    known_brain_bundle(tmp_path)
    known_lesion_bundle(tmp_path)
    known_lesion_bundle(tmp_path, version="0.2.0")

    with pytest.raises(
        ImportProblem, match=r"several versions; name one of known-lesion/0\.1\.0, known-lesion/0\.2\.0"
    ):
        remove_bundle(tmp_path, "known-lesion")
    assert remove_bundle(tmp_path, "known-lesion/0.1.0") == ("known-lesion/0.1.0",)
    assert remove_bundle(tmp_path, "known-brain") == ("known-brain/0.1.0",)

    assert [f"{bundle.name}/{bundle.version}" for bundle in list_bundles(tmp_path)] == ["known-lesion/0.2.0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known-lesion"]


@pytest.mark.parametrize(
    "name", ["nothing", "known-lesion/9", "../models", "known-lesion/../..", "", "/etc", "*"]
)
def test_what_is_not_there_is_named_and_nothing_goes(tmp_path: Path, name: str) -> None:
    known_lesion_bundle(tmp_path / "models")

    with pytest.raises(ImportProblem, match="bundle"):
        remove_bundle(tmp_path / "models", name)

    assert len(list_bundles(tmp_path / "models")) == 1


def test_a_member_stays_while_an_ensemble_is_made_of_it(tmp_path: Path) -> None:
    known_lesion_bundle(tmp_path)
    known_lesion_bundle(tmp_path, version="0.2.0")
    members = {f"{bundle.name}/{bundle.version}": bundle.sha256 for bundle in list_bundles(tmp_path)}
    write_ensemble(tmp_path, members)

    with pytest.raises(
        ImportProblem, match=r"known-ensemble/.* is made of known-lesion/0\.2\.0: remove that first"
    ):
        remove_bundle(tmp_path, "known-lesion/0.2.0")

    assert len(list_bundles(tmp_path)) == 3
    remove_bundle(tmp_path, "known-ensemble")
    assert remove_bundle(tmp_path, "known-lesion/0.2.0") == ("known-lesion/0.2.0",)
