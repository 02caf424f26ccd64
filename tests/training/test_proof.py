"""The proof of a bundle: it comes back from its file, holds for the right weights, and fails for others."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from dicomnode.commands.cli import cli
from pipeline.errors import BundleError
from pipeline.segmenters.families import load_bundle
from pipeline.training.agreement import CaseAgreement, SlabConvolution, in_slabs
from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.families.patch3d import export_bundle
from pipeline.training.families.table import TASKS
from pipeline.training.network import Exportable, UNet
from pipeline.training.pool import write_validation_set
from pipeline.training.proof import PROOF_FILE, read_proof, write_proof
from pipeline.training.verify import verify_proof
from tests.training.test_network import make_network

TINY = TASKS["tiny"]


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a network with random weights, proved on 6 cases."""
    folder = tmp_path_factory.mktemp("models")
    network: UNet = make_network(TINY.architecture)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    samples = write_validation_set(folder / "held", TINY, 2, [])
    return export_bundle(
        Checkpoint(TINY.architecture, state, state), TINY, folder / "models", (samples[:1], samples[1:]),
        version="0.0.1", training={"seed": 0, "compute": "none"}, sections={}, proved=6,
    )  # fmt: skip


def test_proof_holds_for_the_shipped_graph(bundle_folder: Path) -> None:
    exported, now = verify_proof(load_bundle(bundle_folder), count=3)

    assert (exported.cases, now.cases) == (6, 3)
    assert exported.tost_p_float16 < 0.05
    # At export the weights had not been rounded; now all forms have the shipped ones.
    assert exported.max_difference_float16 > 1e-5 > now.max_difference_float16
    assert now.size_ratio < 0.75


@pytest.mark.parametrize("name", ["tiny", "proposal-coarse"])
def test_convolutions_in_slabs_give_the_same_bits(name: str) -> None:
    plain = Exportable(build_network(TASKS[name].architecture)).double().eval()
    slabs = in_slabs(copy.deepcopy(plain))
    image = torch.rand(1, 2, 16, 32, 32, dtype=torch.float64)

    with torch.inference_mode():
        assert torch.equal(plain(image), slabs(image))
    assert sum(isinstance(module, SlabConvolution) for module in slabs.modules()) > 5


def test_proof_of_another_graph_is_refused(bundle_folder: Path) -> None:
    proof = read_proof(bundle_folder)
    write_proof(bundle_folder, replace(proof, sha256="0" * 64))
    try:
        with pytest.raises(BundleError, match="about other graphs"):
            verify_proof(load_bundle(bundle_folder), count=2)
    finally:
        write_proof(bundle_folder, proof)


def test_proof_that_shows_a_difference_is_refused(bundle_folder: Path) -> None:
    proof = read_proof(bundle_folder)
    rows = tuple(
        replace(row, dice_float16=row.dice_torch - 0.01 - 0.001 * n) for n, row in enumerate(proof.rows)
    )
    write_proof(bundle_folder, replace(proof, rows=rows))
    try:
        with pytest.raises(BundleError, match="not equivalent"):
            verify_proof(load_bundle(bundle_folder), count=2)
    finally:
        write_proof(bundle_folder, proof)


def test_unusable_proof_is_named(bundle_folder: Path, tmp_path: Path) -> None:
    (tmp_path / PROOF_FILE).write_text(
        (bundle_folder / PROOF_FILE).read_text().replace("dice_torch", "dice_touch")
    )

    with pytest.raises(BundleError, match="dice_torch"):
        read_proof(tmp_path)


def test_proof_comes_back_from_its_file(tmp_path: Path) -> None:
    from pipeline.training.proof import Proof

    row = CaseAgreement(1, "t1", 1.0, 0.5, 0.25, 1e-6, 1e-3, 2e-6, 1.0)
    proof = Proof("ab" * 32, "as trained", (row, replace(row, seed=2)))
    write_proof(tmp_path, proof)

    assert read_proof(tmp_path) == proof


def test_models_verify_reports_the_proof(bundle_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "dicomnode.toml"
    config.write_text(f'[pipeline]\nmodels = "{bundle_folder.parents[1]}"\n')

    full = CliRunner().invoke(cli, ["models", "verify", "--config", str(config), "--json"])
    quick = CliRunner().invoke(cli, ["models", "verify", "--quick", "--config", str(config), "--json"])

    assert (full.exit_code, quick.exit_code) == (0, 0), full.output + quick.output
    assert "TOST" in full.output
    assert "TOST" not in quick.output


def test_weights_that_were_changed_after_the_proof_are_found(bundle_folder: Path) -> None:
    # The hash in the manifest would find it first; the graph itself must be found too.
    before = (bundle_folder / "model.onnx").read_bytes()
    model = onnx.load_from_string(before)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("_float16") and "stem" in t.name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 0, tensor.name))
    bundle = load_bundle(bundle_folder)
    (bundle_folder / "model.onnx").write_bytes(model.SerializeToString())
    try:
        with pytest.raises(BundleError, match="SHA-256"):
            verify_proof(bundle, count=2)
    finally:
        (bundle_folder / "model.onnx").write_bytes(before)
