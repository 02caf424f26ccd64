"""Imported nnU-Nets answer as nnU-Net's own predictor does: random and briefly trained networks, every rule that changes voxels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.importing import nnunet_folder
from pipeline.importing.nnunet_folder import Imported, NnUNetOptions, import_nnunet
from pipeline.importing.parity import compare
from pipeline.inference.providers import available_providers
from pipeline.inference.session import open_network
from pipeline.segmenters.nnunet.segment import predict_array, window_of
from pipeline.segmenters.nnunet.spec import spec_of
from tests.importing.conftest import Scene, make_scenes
from tests.importing.unchecked import unchecked

ISO, FINE = (1.0, 1.0, 1.0), (1.2, 0.9, 0.8)
THICK = {
    "features": [4, 6, 8],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}
SCENES: dict[str, dict[str, Any]] = {
    "isotropic-trained": {"shape": (30, 40, 26), "spacing": FINE, "make": {"trained": 60}},
    "isotropic-same-grid": {"shape": (28, 30, 34), "spacing": ISO, "make": {"mirror": [0, 1]}},
    "three-folds-old-plans": {
        "shape": (24, 30, 22),
        "spacing": FINE,
        "make": {"old_plans": True, "folds": [0, 1, 4], "mirror": None},
    },
    "thick-slices": {"shape": (9, 40, 36), "spacing": (5.0, 0.9, 0.8), "make": {"trained": 30}},
    "thick-network": {
        "shape": (40, 36, 30),
        "spacing": FINE,
        "make": {**THICK, "patch": [8, 24, 16], "spacing": [3.5, 1.0, 0.9], "mirror": [1, 2]},
    },
    "transposed": {
        "shape": (30, 24, 9),
        "spacing": (0.9, 1.1, 4.5),
        "make": {"transpose": [2, 0, 1], "patch": [8, 24, 16], **THICK},
    },
    "smaller-than-patch": {"shape": (13, 17, 12), "spacing": ISO, "make": {"patch": [16, 24, 16]}},
    "large": {"shape": (56, 60, 50), "spacing": ISO, "make": {"trained": 30, "mirror": None}},
    "residual": {
        "shape": (30, 40, 26),
        "spacing": FINE,
        "make": {"kind": "resenc", "trained": 30, "mirror": [0]},
    },
    "residual-old-plans": {
        "shape": (20, 30, 26),
        "spacing": ISO,
        "make": {"kind": "resenc", "old_plans": True, "mirror": None},
    },
    "masked": {"shape": (30, 40, 26), "spacing": FINE, "make": {"masked": True, "mirror": [2]}},
    "ct": {
        "shape": (20, 30, 26),
        "spacing": FINE,
        "make": {"schemes": "CTNormalization", "channels": 1, "mirror": None},
    },
    "planar": {
        "shape": (12, 44, 30),
        "spacing": (4.0, 0.9, 0.8),
        "make": {"patch": [24, 16], "spacing": [1.0, 1.0], "mirror": [0, 1]},
    },
    "two-lesion-classes": {"shape": (20, 30, 26), "spacing": FINE, "make": {"labels": 2, "mirror": [0]}},
}


@pytest.fixture(scope="module")
def scenes(nnunet_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    return make_scenes(nnunet_python, tmp_path_factory.mktemp("original"), SCENES)


@pytest.fixture(params=["cpu", "openvino"])
def provider(request: pytest.FixtureRequest) -> str:
    """ONNX Runtime, and OpenVINO where it is installed; CI must have it."""
    if request.param not in available_providers():
        if os.environ.get("CI"):
            pytest.fail("the openvino extra is not installed; CI must have it", pytrace=False)
        pytest.skip("the openvino extra is not installed")
    return str(request.param)


def imported(scene: Scene, models: Path, weights: str) -> Imported:
    channels = ("t1", "flair")[: len(scene.array)]
    labels = tuple(range(1, len(scene.probabilities)))
    return import_nnunet(
        scene.folder, models, NnUNetOptions(channels, "tiny", lesion_labels=labels, weights=weights)
    )


def answer(bundle: Bundle, scene: Scene, provider: str = "cpu") -> Any:
    networks = [open_network(bundle, 2, name, provider) for name in bundle.graphs]
    probability, _ = predict_array(networks, spec_of(bundle), window_of(bundle), scene.array, scene.spacing)
    return probability


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(SCENES))
def test_answers_as_the_original(
    name: str, scenes: dict[str, Scene], provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The import's own comparison with torch is tested elsewhere.
    monkeypatch.setattr(nnunet_folder, "choose_weights", unchecked)
    scene = scenes[name]
    original = scene.probabilities[1:].sum(axis=0)
    assert original.std() > 1e-3, "a flat answer would compare equal with anything"

    exact = compare(
        name, provider, answer(imported(scene, tmp_path / "32", "float32").bundle, scene, provider), original
    )
    stored = compare(
        name,
        provider,
        answer(imported(scene, tmp_path / "16", "float16").bundle, scene, provider),
        original,
        weights="Float16",
    )

    print(f"{exact.row()}\n{stored.row()}")  # noqa: T201 - the figures of docs/benchmarks.md
    assert exact.mean_difference < 1e-4
    assert exact.mask_difference < 1e-4
    assert stored.mean_difference < 1e-3


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(SCENES))
def test_what_the_import_installs_answers_as_the_original(
    name: str, scenes: dict[str, Scene], tmp_path: Path
) -> None:
    """With the weights that the import itself chose, on a case that it has not seen; Float16 was within 1e-4 on those that it had."""
    scene = scenes[name]
    found = imported(scene, tmp_path, "auto")

    row = compare(
        name,
        "cpu",
        answer(found.bundle, scene),
        scene.probabilities[1:].sum(axis=0),
        weights=found.choice.kept,
    )

    print(row.row(), found.choice.because)  # noqa: T201 - the figures of docs/benchmarks.md
    kept_float32 = found.choice.kept == "Float32"
    assert row.mean_difference < (1e-4 if kept_float32 else 1e-3)
    assert not kept_float32 or row.mask_difference < 1e-4


def test_a_wrong_rule_would_be_seen(scenes: dict[str, Scene], tmp_path: Path) -> None:
    """The comparison can fail: one wrong channel order moves the answer by more than the limit."""
    scene = scenes["isotropic-trained"]
    bundle = imported(scene, tmp_path, "float32").bundle
    swapped = Scene(scene.folder, np.ascontiguousarray(scene.array[::-1]), scene.spacing, scene.probabilities)

    found = compare("swapped", "nnunetv2", answer(bundle, swapped), scene.probabilities[1])

    assert found.mean_difference > 1e-3
    assert found.mask_difference > 1e-2
