"""The whole way in small: synthesise, train for a few seconds, resume, export, run the bundle."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from pathlib import Path

import nibabel
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from dicomnode.answer import SHIPPED_MODELS
from dicomnode.commands.cli import cli
from pipeline.training.__main__ import app
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.families.table import TASKS
from pipeline.training.onnx_graph import open_session, run_session
from pipeline.training.pool import read_sample
from pipeline.training.proof import PROOF_SEED, read_proof
from pipeline.training.validate import validate_network

TINY = TASKS["tiny"]


def run(*arguments: object) -> str:
    """Run one command in this process and return what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after a short training of the tiny network."""
    folder = tmp_path_factory.mktemp("run")
    run("synthesize", "--task", "tiny", "--out", folder / "pool", "--count", 48)
    common = (
        "--task",
        "tiny",
        "--out",
        folder,
        "--generators",
        0,
        "--validation",
        8,
        "--learning-rate",
        4e-3,
    )
    run("train", *common, "--steps", 150, "--minutes", 5)
    return folder


def test_training_learns_and_resumes(trained: Path) -> None:
    first = load_checkpoint(trained / "last.pt", TINY.architecture)
    cases = sorted((trained / "validation").glob("*.npz"))

    run(
        "train",
        "--task",
        "tiny",
        "--out",
        trained,
        "--generators",
        0,
        "--validation",
        8,
        "--steps",
        400,
        "--minutes",
        5,
    )
    second = load_checkpoint(trained / "last.pt", TINY.architecture)

    assert first.step == 150
    assert second.step == 400
    assert second.seconds > first.seconds
    assert validate_network(second.averaged_network(), cases, ["t1+flair"])["t1+flair"] > 0.05
    assert (trained / "curve.png").stat().st_size > 1000
    assert len((trained / "curve.csv").read_text().splitlines()) == 3


def test_exported_bundle_states_what_it_is(trained: Path, tmp_path: Path) -> None:
    run(
        "export",
        "--task",
        "tiny",
        "--checkpoint",
        trained / "last.pt",
        "--samples",
        trained / "validation",
        "--count",
        8,
        "--proved",
        8,
        "--models",
        tmp_path,
    )
    folder = tmp_path / "stroke-lesion-2mm" / "0.1.0"
    manifest = tomllib.loads((folder / "model.toml").read_text())
    model = onnx.load(folder / "model.onnx")
    image, _ = read_sample(trained / "validation" / "sample-00000.npz")

    probability = run_session(open_session(model), image.numpy())

    assert hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest() == manifest["files"]["model.onnx"]
    assert manifest["input"]["channels"] == ["t1", "flair"]
    assert set(manifest["output"]["thresholds"]) == {"t1+flair", "t1", "flair"}
    assert manifest["measured"]["export_max_difference_float32"] < 1e-5
    proof = read_proof(folder)
    assert [row.seed for row in proof.rows] == list(range(PROOF_SEED, PROOF_SEED + 8))
    assert {row.combination for row in proof.rows} == set(TINY.combinations)
    assert probability.shape == TINY.grid.shape
    assert np.isfinite(probability).all()
    assert "research use" in (folder / "CARD.md").read_text()


def test_exported_bundle_segments_a_study(trained: Path, tmp_path: Path) -> None:
    checkpoint, samples, models = trained / "last.pt", trained / "validation", tmp_path / "models"
    run(
        "export",
        "--task",
        "tiny",
        "--checkpoint",
        checkpoint,
        "--samples",
        samples,
        "--count",
        4,
        "--proved",
        3,
        "--models",
        models,
    )
    shutil.copytree(SHIPPED_MODELS / "brain-extractor-3mm", models / "brain-extractor-3mm")
    (tmp_path / "dicomnode.toml").write_text(
        f'[pipeline]\nmodels = "{models}"\nlesion_model = "stroke-lesion-2mm"\n'
    )
    run("synthesize", "--demo", tmp_path / "demo")
    study, out = tmp_path / "demo", tmp_path / "out"

    # A network of a minute may find nothing at its own threshold, and then there is no mask to look at.
    files = [
        "--t1",
        study / "t1.nii.gz",
        "--flair",
        study / "flair.nii.gz",
        "-o",
        out,
        "--config",
        tmp_path / "dicomnode.toml",
    ]
    arguments = [*files, "--threshold", 0.001]
    result = CliRunner().invoke(cli, ["segment", *map(str, arguments)])

    assert result.exit_code == 0, result.output
    found = {path.name.split("_", 1)[1]: path for path in out.rglob("sub-*.nii.gz")}
    wanted = (study / "flair.nii.gz", found["label-L_mask.nii.gz"], found["desc-brain_mask.nii.gz"])
    flair, mask, brain = (nibabel.load(path) for path in wanted)
    assert mask.shape == flair.shape
    assert np.allclose(mask.affine, flair.affine, atol=1e-3)
    assert 600 < np.asarray(brain.dataobj).sum() * abs(np.linalg.det(brain.affine[:3, :3])) / 1000 < 2200


def test_demo_study_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("synthesize", "--demo", tmp_path / name)

    for file in ("t1.nii.gz", "flair.nii.gz", "truth.nii.gz"):
        first, second = (np.asarray(nibabel.load(tmp_path / name / file).dataobj) for name in ("one", "two"))
        assert np.array_equal(first, second)
    assert "30.0" in (tmp_path / "one" / "README.md").read_text()
