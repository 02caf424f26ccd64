"""The doctor at a node's own listener: right advice, and nothing made that the service could not write to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicomnode.commands.doctor import Check, examine
from dicomnode.network.association import Receiver
from dicomnode.settings.config import Config, parse_config
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.manners import Manners
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter


def configured(root: Path, **network: Any) -> Config:
    return parse_config(
        {"network": {"port": 0, **network}, "storage": {"root": str(root), "minimum_free_mb": 0}}
    )


def checks(config: Config) -> dict[str, Check]:
    return {check.name: check for check in examine(config)}


def test_it_makes_nothing(tmp_path: Path) -> None:
    found = checks(configured(tmp_path / "node"))
    assert found["storage"].level == "warning"
    assert not (tmp_path / "node").exists()

    (tmp_path / "node").mkdir()
    assert checks(configured(tmp_path / "node"))["ledger"].level == "ok"
    assert list((tmp_path / "node").iterdir()) == []


@pytest.mark.parametrize("unknown_callers", ["loopback", "never"])
def test_a_listener_that_takes_known_callers_only_is_well(tmp_path: Path, unknown_callers: str) -> None:
    config = configured(tmp_path, accept_unknown_peers=unknown_callers)
    receiver = Receiver(config, SpoolWriter(SpoolLayout(config.storage.spool), 0), lambda _: "new", time.time)
    host, port = receiver.start()
    (tmp_path / "receive.json").write_text(json.dumps({"host": host, "port": port}))

    assert checks(config)["listener"].level == "ok"

    receiver.stop(2.0)
    found = checks(config)["listener"]
    assert found.level == "problem"
    assert "dicomnode serve" in found.advice
    assert "archive" not in found.advice


def test_a_half_written_announcement_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "receive.json").write_text("{")

    found = checks(configured(tmp_path))

    assert found["listener"].level == "problem"
    assert "destinations" in found


def test_it_says_what_a_destination_takes_instead_and_how_it_proves(tmp_path: Path) -> None:
    refuse = {SegmentationStorage, Comprehensive3DSRStorage}
    with Archive(tmp_path / "pacs", refuse=refuse, manners=Manners(find="image")) as archive:
        pacs = {"name": "pacs", "ae_title": archive.ae_title, "host": "127.0.0.1", "port": archive.port}
        config = configured(tmp_path).model_copy(
            update={"destinations": parse_config({"destinations": [pacs]}).destinations}
        )
        found = [check for check in examine(config) if check.name == "destination pacs"]
        named = parse_config({"destinations": [pacs | {"objects": ["seg"]}]}).destinations
        strict = [
            check
            for check in examine(config.model_copy(update={"destinations": named}))
            if check.name == "destination pacs"
        ]
    assert [check.level for check in found] == ["warning", "ok"]
    assert found[0].seen.startswith(
        "ARCHIVE answers C-ECHO and gets pictures, sr.comprehensive: it does not accept Segmentation Storage"
    )
    assert strict[0].level == "problem"
    assert strict[0].seen.endswith(
        "gets seg, but it does not accept Segmentation Storage, which the configuration names"
    )
    assert 'objects = ["auto"]' in strict[0].advice
    assert found[1].seen == "proves what it keeps by C-FIND"
    assert archive.received == ()
