"""OpenVINO answers as ONNX Runtime where it would otherwise drift (normalisation over many voxels)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pipeline.inference import providers
from pipeline.inference.session import open_network
from pipeline.records import Array
from pipeline.segmenters.families import list_bundles

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the openvino extra is not installed"
)


def blocks(channels: int, shape: tuple[int, ...]) -> Array:
    """Return noise in blocks of 8: on finer noise the networks say nothing anywhere."""
    patch = np.random.default_rng(3).normal(scale=2, size=(channels, *(-(-side // 8) for side in shape)))
    for axis in (1, 2, 3):
        patch = patch.repeat(8, axis)
    return patch[:, : shape[0], : shape[1], : shape[2]].astype(np.float32)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_shipped_networks_answer_alike(repo_root: Path) -> None:
    # An ensemble has no graphs of its own: it asks other bundles.
    graphs = [(bundle, name) for bundle in list_bundles(repo_root / "models") for name in bundle.graphs]
    for bundle, name in graphs:
        patch = blocks(len(bundle.channels), bundle.patch_of(name))

        first, second = (open_network(bundle, 1, name, provider)(patch) for provider in ("cpu", "openvino"))

        assert first.std() > 1e-6, (bundle.name, name)
        assert np.abs(first - second).max() < 1e-4, (bundle.name, name)
    assert len(graphs) >= 8


def test_without_the_divisions_it_drifts(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail; when this one fails, OpenVINO has mended its sums and the rewriting can go."""
    (bundle,) = (
        bundle for bundle in list_bundles(repo_root / "models") if bundle.name == "brain-extractor-3mm"
    )
    patch = (
        np.random.default_rng(3)
        .normal(size=(len(bundle.channels), *bundle.input.patch))
        .astype(np.float32)[np.newaxis]
    )
    exact = providers.open_session(bundle, 1, "model.onnx", "cpu")(patch)

    monkeypatch.setattr(providers, "_keep_means_apart", lambda _model: None)
    drifted = providers.open_session(bundle, 1, "model.onnx", "openvino")(patch)

    assert np.abs(drifted - exact).max() > 1e-4
