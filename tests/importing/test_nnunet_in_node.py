"""The whole way: nnU-Net makes a folder, the command installs it, the listening node answers a study with it, the command takes it away."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from dicomnode.answer import SHIPPED_MODELS
from dicomnode.commands.cli import cli
from dicomnode.commands.demo import DEMO_STUDY, STUDY_UID, write_study
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from tests.importing.conftest import SCRIPT

NETWORK = {
    "patch": [32, 48, 32],
    "spacing": [2.0, 2.0, 2.0],
    "features": [4, 8, 12],
    "masked": True,
    "mirror": None,
    "trained": 60,
}
ANSWER_S = 400.0


def dicomnode(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def results(python: Path, folder: Path) -> Path:
    """Let nnU-Net make a result folder of a network that was trained on bright balls."""
    command = [python, SCRIPT, "make", folder, json.dumps(NETWORK)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    return folder


def through_the_node(
    node: NodeProcesses, archive: Archive, images: list[Path]
) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """Send a study by C-STORE; return what the archive gets for it (modality -> object) and the job as the ledger knows it."""
    peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=node.port())
    sent = send_files(images, peer, calling_ae="SCANNER", timeout_s=60)
    assert {outcome.verdict for outcome in sent} == {"ok"}
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        node.check()
        found = {
            dataset.Modality: dataset
            for dataset in map(pydicom.dcmread, archive.files)
            if dataset.StudyInstanceUID == STUDY_UID
        }
        job = (
            json.loads(dicomnode("why", STUDY_UID, "--json", "--config", node.config))["jobs"][-1]
            if "SR" in found
            else {}
        )
        if job.get("state") == "done":
            return found, job
        time.sleep(0.5)
    pytest.fail(f"no answer came within {ANSWER_S:g} s; the node says {node.log.read_text()[-2000:]}")


@pytest.mark.timeout(900)
def test_imported_used_and_removed(nnunet_python: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    # The node looks for both networks in one folder.
    shutil.copytree(SHIPPED_MODELS / "brain-extractor-3mm", models / "brain-extractor-3mm")
    settings = (
        f'[pipeline]\nmodels = {json.dumps(str(models))}\nlesion_model = "hospital"\n[study]\nquiet_s = 3\n'
    )
    with np.load(DEMO_STUDY) as study:
        images = write_study(study, tmp_path / "study")
    with Archive(tmp_path / "pacs") as archive:
        node = NodeProcesses(tmp_path, archive.ae_title, archive.port, settings)
        at = ("--config", node.config)
        given = ("--channels", "t1,flair", "--name", "hospital", "--orientation", "LPS", "--threshold", "0.4")
        said = dicomnode("models", "import-nnunet", results(nnunet_python, tmp_path / "results"), *given, *at)
        listed = json.loads(dicomnode("models", "list", "--json", *at))
        with node:
            arrived, job = through_the_node(node, archive, images)
        removed = dicomnode("models", "remove", "hospital", *at)
        left = json.loads(dicomnode("models", "list", "--json", *at))

    assert "Weights are kept as" in said
    assert {row["name"] for row in listed} == {"brain-extractor-3mm", "hospital"}
    (infer,) = [step["parameters"] for step in job["detail"]["steps"] if step["name"] == "infer"]
    assert infer["conventions"] == "nnU-Net v2"
    # A network of sixty steps on balls may call a head free of lesions; then the report stands alone.
    assert job["outcome"] in ("lesions", "negative")
    assert set(arrived) == ({"SEG", "SR"} if job["outcome"] == "lesions" else {"SR"})
    assert "SEG" not in arrived or arrived["SEG"].pixel_array.any()
    for dataset in arrived.values():
        assert "hospital" in str(dataset)
    assert "hospital/1.0.0 was removed" in removed
    assert "pipeline.lesion_model still names it" in removed
    assert {row["name"] for row in left} == {"brain-extractor-3mm"}
    assert not (models / "hospital").exists()
