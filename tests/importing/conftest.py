"""Fixtures of the import tests: everything that needs torch is marked `train`; the original nnU-Net lives in its own Python."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

HERE = Path(__file__).parent
SCRIPT = HERE / "nnunet_original.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, so that the plain suite leaves it out."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.train)


@pytest.fixture(scope="session")
def nnunet_python() -> Path:
    """Python that has `nnunetv2`: $NNUNET_PYTHON or .venv-nnunet of the checkout; without it skip, in CI fail."""
    python = Path(os.environ.get("NNUNET_PYTHON", HERE.parents[1] / ".venv-nnunet" / "bin" / "python"))
    if not python.exists():
        reason = "no Python with nnunetv2 (set $NNUNET_PYTHON, or make .venv-nnunet as .ci/run does)"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; CI must have it", pytrace=False)
        pytest.skip(reason)
    return python


@dataclass(frozen=True, eq=False)
class Scene:
    """One result folder made by nnU-Net, one case, and what nnU-Net's own predictor answered."""

    folder: Path
    array: np.ndarray[Any, Any]
    spacing: tuple[float, float, float]
    probabilities: np.ndarray[Any, Any]


def head(shape: tuple[int, int, int], channels: int, seed: int, rim: int = 2) -> np.ndarray[Any, Any]:
    """An uneven box of texture in zeros, with a hole and two bright lumps: asymmetric on every axis."""
    rng = np.random.default_rng(seed)
    array = np.zeros((channels, *shape), np.float32)
    inner = tuple(n - 2 * rim - k for k, n in enumerate(shape))
    array[:, rim : rim + inner[0], rim : rim + inner[1], rim : rim + inner[2]] = rng.normal(
        100, 20, (channels, *inner)
    )
    middle = [n // 2 for n in shape]
    array[:, middle[0] : middle[0] + 2, middle[1] : middle[1] + 3, middle[2] : middle[2] + 2] = 0
    a, b, c = (max(1, n // 4) for n in shape)
    array[-1, a : 2 * a, b : 2 * b, c : 2 * c] += 90
    array[0, 2 * a : 3 * a, b : 2 * b, 2 * c : 3 * c] -= 60
    return array


def make_scenes(python: Path, root: Path, wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Scene]:
    """Let nnU-Net make folders and predict, all in one process: its start alone takes ten seconds."""
    jobs, cases = [], {}
    for number, (name, scene) in enumerate(wanted.items()):
        made = dict(scene.get("make", {}))
        array = head(scene["shape"], made.get("channels", 2), number)
        cases[name] = (array, scene["spacing"])
        np.savez(root / f"{name}.npz", array=array, spacing=scene["spacing"])
        jobs.append(
            {
                "folder": str(root / name),
                "make": {"seed": 10 * number, **made},
                "case": str(root / f"{name}.npz"),
                "answer": str(root / f"{name}.answer.npz"),
                "predict": dict(scene.get("predict", {})),
            }
        )
    done = subprocess.run(
        [python, str(SCRIPT), "batch", json.dumps(jobs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scenes = {}
    for name, (array, spacing) in cases.items():
        with np.load(root / f"{name}.answer.npz") as answer:
            scenes[name] = Scene(root / name, array, spacing, answer["probabilities"])
    return scenes
