"""Tiny ONNX networks whose answer is known, packed as model bundles. Never shipped: `models/` holds trained networks only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.bundles.bundle import Bundle
from pipeline.segmenters.families import load_bundle


def threshold_graph(
    weights: Sequence[float], level: float, patch: Sequence[int], *, slope: float = 40.0, half: bool = True
) -> onnx.ModelProto:
    """Return sigmoid(slope * (sum of weight * channel - level)) as a 1x1x1 convolution, weights stored as Float16 where `half`."""
    kernel = (slope * np.asarray(weights, np.float32)).reshape(1, -1, 1, 1, 1)
    bias = np.array([-slope * level], np.float32)
    stored, nodes = [], []
    for name, values in (("kernel", kernel), ("bias", bias)):
        stored.append(
            numpy_helper.from_array(values.astype(np.float16 if half else np.float32), f"{name}_stored")
        )
        nodes.append(helper.make_node("Cast", [f"{name}_stored"], [name], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Conv", ["image", "kernel", "bias"], ["logit"]))
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["probability"]))
    return _model(nodes, stored, len(weights), 1, patch)


def nan_graph(channels: int, patch: Sequence[int]) -> onnx.ModelProto:
    """Return a network that answers NaN: the logarithm of a negative number."""
    kernel = numpy_helper.from_array(np.zeros((1, channels, 1, 1, 1), np.float32), "kernel")
    bias = numpy_helper.from_array(np.array([-1.0], np.float32), "bias")
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["negative"]),
        helper.make_node("Log", ["negative"], ["probability"]),
    ]
    return _model(nodes, [kernel, bias], channels, 1, patch)


def _model(
    nodes: list[Any], stored: list[Any], channels: int, maps: int, patch: Sequence[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *patch])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, maps, *patch])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def lesion_manifest(**changes: Any) -> dict[str, Any]:
    """Return the manifest of a 2 mm lesion network on T1 and FLAIR; `changes` are "section.key" (dots written as "__") to value."""
    manifest: dict[str, Any] = {
        "schema": 1,
        "name": "known-lesion",
        "version": "0.1.0",
        "task": "lesion",
        "family": "patch3d",
        "statement": "A test network of known answer.",
        "intended_use": "Tests.",
        "licence": "Apache-2.0",
        "input": {
            "name": "image",
            "channels": ["t1", "flair"],
            "accepts": [["t1", "flair"], ["t1"], ["flair"]],
            "head": "brain-extracted",
            "spacing_mm": [2.0, 2.0, 2.0],
            "patch": [80, 96, 80],
            "dtype": "float32",
        },
        "preprocess": {
            "resample": "gaussian-linear",
            "normalise": "brain-median",
            "normalise_parameters": {"clip": [0.0, 3.0]},
        },
        "window": {"step": 0.5, "gaussian": True},
        "output": {
            "name": "probability",
            "activation": "in-graph",
            "threshold": 0.5,
            "thresholds": {"t1+flair": 0.5},
            "minimum_volume_mm3": 50.0,
            "connectivity": 26,
        },
    }
    manifest = _changed(manifest, changes)
    if not any(key == "output" or key.startswith("output__thresholds") for key in changes):
        channels, accepts = manifest["input"]["channels"], manifest["input"]["accepts"]
        combinations = {"+".join(channel for channel in channels if channel in roles) for roles in accepts}
        thresholds = manifest["output"]["thresholds"]
        manifest["output"]["thresholds"] = {
            name: level for name, level in thresholds.items() if name in combinations
        }
    return manifest


def brain_manifest(**changes: Any) -> dict[str, Any]:
    """Return the manifest of a 3 mm brain extractor on one image of any contrast."""
    manifest = lesion_manifest(
        name="known-brain",
        task="brain",
        input__channels=["any"],
        input__accepts=[["any"]],
        input__head="whole-head",
        input__spacing_mm=[3.0, 3.0, 3.0],
        input__patch=[80, 80, 64],
        preprocess__normalise="percentile",
        preprocess__normalise_parameters={"low": 0.5, "high": 99.5, "of": "non-zero", "range": [0.0, 1.0]},
        output__thresholds={},
        output__minimum_volume_mm3=0.0,
    )
    return _changed(manifest, changes)


def write_bundle(models: Path, graph: onnx.ModelProto, manifest: Mapping[str, Any]) -> Path:
    """Write `models/<name>/<version>/` and return it."""
    folder = models / manifest["name"] / manifest["version"]
    folder.mkdir(parents=True)
    data = graph.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    (folder / "CARD.md").write_text("A test network of known answer.\n")
    write_manifest(folder, {**manifest, "files": {"model.onnx": hashlib.sha256(data).hexdigest()}})
    return folder


def write_family_bundle(
    models: Path, graphs: Mapping[str, onnx.ModelProto], manifest: Mapping[str, Any]
) -> Path:
    """Write a bundle of several graphs (none for an ensemble) and return its folder."""
    folder = models / manifest["name"] / manifest["version"]
    folder.mkdir(parents=True)
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph.SerializeToString())
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in graphs}
    write_manifest(folder, {**manifest, "files": digests} if graphs else dict(manifest))
    return folder


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write `model.toml`: JSON values are TOML values, but for tables."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in manifest.items() if not isinstance(value, dict)]
    for section, values in manifest.items():
        if isinstance(values, dict):
            lines += [
                f"[{section}]",
                *(f"{json.dumps(key)} = {_toml(value)}" for key, value in values.items()),
            ]
    (folder / "model.toml").write_text("\n".join(lines) + "\n")


def known_lesion_bundle(models: Path, **changes: Any) -> Bundle:
    """Return a network that marks what is brighter than 1.66 x the brain's median in the last channel."""
    manifest = lesion_manifest(**changes)
    weights = [
        1.0 if channel == manifest["input"]["channels"][-1] else 0.0
        for channel in manifest["input"]["channels"]
    ]
    return load_bundle(
        write_bundle(models, threshold_graph(weights, 1.66, manifest["input"]["patch"], slope=4.0), manifest)
    )


def known_brain_bundle(models: Path, **changes: Any) -> Bundle:
    """Return a network that marks everything above a quarter of the image's range."""
    manifest = brain_manifest(**changes)
    return load_bundle(
        write_bundle(models, threshold_graph([1.0], 0.25, manifest["input"]["patch"]), manifest)
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    # TOML writes nan and inf as Python does, JSON does not.
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _changed(manifest: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for path, value in changes.items():
        *sections, key = path.split("__")
        here = manifest
        for section in sections:
            here = here[section]
        here[key] = value
    return manifest
