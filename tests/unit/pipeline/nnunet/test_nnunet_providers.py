"""Providers: what is there answers alike, what is not there is named; the benchmark measures each in its own process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BundleError
from pipeline.inference.providers import available_providers, choose_provider
from pipeline.inference.session import open_network
from pipeline.segmenters.benchmark import benchmark_bundle
from tests.factories.onnx import known_brain_bundle


def test_a_provider_that_is_not_there_is_named(tmp_path: Path) -> None:
    bundle = known_brain_bundle(tmp_path)
    assert available_providers()[0] == "cpu"

    with pytest.raises(BundleError, match="the provider 'tpu' is not one of cpu, cuda, openvino"):
        open_network(bundle, 1, provider="tpu")
    if "cuda" not in available_providers():
        with pytest.raises(BundleError, match="the provider 'cuda' is not there: it needs onnxruntime-gpu"):
            open_network(bundle, 1, provider="cuda")


def test_auto_is_openvino_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, meant in ((object(), "openvino"), (None, "cpu")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name, there=there: there)
        assert choose_provider("auto") == meant
    assert choose_provider("cuda") == "cuda"


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the openvino extra is not installed"
)
def test_openvino_answers_as_onnx_runtime(tmp_path: Path) -> None:
    bundle = known_brain_bundle(tmp_path)
    patch = np.random.default_rng(3).random((1, *bundle.input.patch), dtype=np.float32)

    first, second = (open_network(bundle, 1, provider=name)(patch) for name in ("cpu", "openvino"))

    assert np.abs(first - second).max() < 1e-4


def test_benchmark_measures_what_is_there_and_names_what_is_not(tmp_path: Path) -> None:
    bundle = known_brain_bundle(tmp_path, input__patch=[8, 10, 12])

    cpu, missing = benchmark_bundle(bundle, ["cpu", "cuda"], threads=1, patches=1)

    assert (cpu.provider, cpu.problem, cpu.apart) == ("cpu", "", 0.0)
    assert 0 < cpu.patch_s < 10
    assert 30 < cpu.peak_mb < 2000
    if "cuda" not in available_providers():
        assert "the provider 'cuda' is not there" in missing.problem
    with pytest.raises(BundleError, match="'tpu'"):
        benchmark_bundle(bundle, ["tpu"])
