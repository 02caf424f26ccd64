"""A received study is answered again into a folder: with another threshold, without doing the slow steps twice, and nothing else changes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomnode.commands.files import choose, replay
from dicomnode.errors import NodeError
from dicomnode.ledger.shown import plain
from dicomnode.processes.app import open_ledger
from dicomnode.records import ReceivedInstance
from dicomnode.settings.config import parse_config
from dicomnode.simulator.author import write_series
from dicomnode.spool.layout import SpoolLayout
from dicomnode.study.headers import read_header
from tests.factories.dicom import phantom_study
from tests.factories.head import head_study, study_uid
from tests.factories.onnx import brain_manifest, known_lesion_bundle, threshold_graph, write_bundle
from tests.factories.results import texts_of
from tests.factories.whole_node import whole_node

GRID = {"shape": (60, 72, 60), "spacing_mm": (3.0, 3.0, 3.0)}


def steps(folder: Path) -> dict[str, Any]:
    (sidecar,) = folder.glob("sub-*/anat/*_label-L_mask.json")
    return {step["Name"]: step for step in json.loads(sidecar.read_text())["Steps"]}


def segmentation(folder: Path) -> bytes:
    (path,) = folder.glob("sub-*/dicom/seg.dcm")
    return path.read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_replay_tells_what_the_node_told(tmp_path: Path) -> None:
    """The earlier study that today's was compared with, and the images that could not be read, are told by a replay too."""
    first, second = (
        write_series(head_study(name, overrides={"StudyDate": date}), tmp_path / name)
        for name, date in (("first", "20260105"), ("second", "20260704"))
    )
    last = second[-1]
    last.write_bytes(last.read_bytes()[:-2500])
    with whole_node(tmp_path) as node:
        node.push(first)
        node.work()
        node.push(second)
        node.work()
        (told,) = node.arrived(study_uid("second"))["SR"]

        assert replay(node.config, study_uid("second"), tmp_path / "again", True)

    (report,) = (tmp_path / "again").glob("sub-*/dicom/sr.dcm")
    words = texts_of(pydicom.dcmread(report))
    assert words == texts_of(told)
    assert any("New since 2026-01-05: none." in text for text in words)
    assert any("1 image of the study could not be read" in text for text in words)


@pytest.mark.slow
def test_a_replay_finds_what_was_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    known_lesion_bundle(models)
    write_bundle(models, threshold_graph([1.0], 0.68, [80, 80, 64]), brain_manifest())
    settings = {
        "models": str(models),
        "lesion_model": "known-lesion",
        "brain_model": "known-brain",
        "require_head": False,
    }
    config = choose(
        parse_config({"storage": {"root": str(tmp_path / "node")}, "pipeline": settings}),
        cache=tmp_path / "cache",
        threshold=None,
    )
    layout = SpoolLayout(config.storage.spool)
    layout.prepare()
    phantom = phantom_study(roles=("flair",), flair=GRID)
    ledger = open_ledger(config)
    for number, instance in enumerate(phantom.instances):
        sha256 = hashlib.sha256(str(number).encode()).hexdigest()
        path = layout.instance_path(instance.SOPInstanceUID, sha256)
        instance.save_as(layout.root / path, enforce_file_format=True)
        syntax = instance.file_meta.TransferSyntaxUID
        ledger.instances.add(
            ReceivedInstance(
                instance.SOPInstanceUID,
                instance.SOPClassUID,
                syntax,
                path,
                sha256,
                1,
                "MR",
                "127.0.0.1",
                10.0,
            )
        )
    for instance_id, received in ledger.instances.unindexed(1000):
        ledger.instances.record_header(instance_id, read_header(layout.root / received.path), 11.0)
    before = plain(ledger.history.of_study(phantom.study_uid))
    uid = phantom.study_uid

    assert replay(config, uid, tmp_path / "first", True)
    assert replay(choose(config, threshold=0.8, peak=0.0), uid[-12:], tmp_path / "second", True)

    first, second = steps(tmp_path / "first"), steps(tmp_path / "second")
    assert not any(step["Cached"] for step in first.values())
    assert second["infer"]["Cached"]
    assert second["extract_brain"]["Parameters"]["flair"]["cached"]
    assert second["find_lesions"]["Parameters"]["threshold"] == 0.8
    assert segmentation(tmp_path / "second") != segmentation(tmp_path / "first")
    rows = [json.loads(text) for text in capsys.readouterr().out.replace("]\n[", "]\0[").split("\0")]
    assert [row[0]["outcome"] for row in rows] == ["lesions", "lesions"]
    # Nothing was sent, and the ledger tells the same story.
    assert plain(ledger.history.of_study(uid)) == before
    with pytest.raises(NodeError):
        replay(config, "9.9.9", tmp_path / "third", True)
    ledger.close()
