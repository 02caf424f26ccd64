"""The whole way: nnU-Net makes a folder, the command installs it, the node answers a study with it, the command takes it away."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from dicomnode.answer import SHIPPED_MODELS
from dicomnode.cli import cli
from dicomnode.demo import DEMO_STUDY, write_study
from tests.importing.conftest import SCRIPT

NETWORK = {"patch": [32, 48, 32], "spacing": [2.0, 2.0, 2.0], "features": [4, 8, 12], "masked": True, "mirror": None, "trained": 40}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A configuration whose models folder holds the shipped brain extractor."""
    shutil.copytree(SHIPPED_MODELS / "brain-extractor-3mm", tmp_path / "models" / "brain-extractor-3mm")
    (tmp_path / "node.toml").write_text(f'[pipeline]\nmodels = "{tmp_path / "models"}"\nlesion_model = "hospital"\n')
    return tmp_path / "node.toml"


def dicomnode(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.timeout(600)
def test_imported_used_and_removed(nnunet_python: Path, settings: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [nnunet_python, SCRIPT, "make", tmp_path / "results", json.dumps(NETWORK)], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    with np.load(DEMO_STUDY) as study:
        write_study(study, tmp_path / "study")

    dicomnode(
        "models",
        "import-nnunet",
        tmp_path / "results",
        "--channels",
        "t1,flair",
        "--name",
        "hospital",
        "--orientation",
        "LPS",
        "--config",
        settings,
    )
    listed = json.loads(dicomnode("models", "list", "--json", "--config", settings))
    answered = json.loads(dicomnode("segment", tmp_path / "study", "-o", tmp_path / "out", "--json", "--config", settings))
    dicomnode("models", "remove", "hospital", "--config", settings)
    left = json.loads(dicomnode("models", "list", "--json", "--config", settings))

    assert {row["name"] for row in listed} == {"brain-extractor-3mm", "hospital"}
    assert [row["outcome"] for row in answered] in (["lesions"], ["negative"])
    folder = Path(answered[0]["folder"])
    steps = {step["name"]: step["parameters"] for step in json.loads((folder / "steps.json").read_text())}
    assert steps["infer"]["conventions"] == "nnU-Net v2"
    reports = [dataset for dataset in map(pydicom.dcmread, folder.glob("*.dcm")) if dataset.Modality == "SR"]
    assert len(reports) == 1
    assert "hospital" in str(reports[0])
    assert {row["name"] for row in left} == {"brain-extractor-3mm"}
    assert not (tmp_path / "models" / "hospital").exists()
