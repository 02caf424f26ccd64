"""ONNX files of others: Float16 ends are widened, free sizes are fixed, and what cannot be taken is named with nothing installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import BundleError
from pipeline.importing.onnx_file import import_onnx
from pipeline.inference.session import open_network
from pipeline.segmenters.families import load_bundle
from tests.factories.onnx import lesion_manifest, write_manifest

PATCH = (8, 10, 12)


def logits_graph(
    *,
    kind: int = TensorProto.FLOAT16,
    channels: int = 2,
    size: tuple[Any, ...] = (None, None, None),
    opset: int = 17,
) -> onnx.ModelProto:
    """Two logits, 0 and 4 x (first channel + 2 x second): StrokeSeg's form, batch and size left open."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    kernel = np.zeros((2, channels, 1, 1, 1), dtype)
    kernel[1, :, 0, 0, 0] = [4.0, 8.0][:channels]
    ends = [
        helper.make_tensor_value_info(name, kind, ["batch", depth, *size])
        for name, depth in (("input", channels), ("output", 2))
    ]
    nodes = [helper.make_node("Conv", ["input", "kernel"], ["output"])]
    graph = helper.make_graph(
        nodes, "strokeseg", [ends[0]], [ends[1]], [numpy_helper.from_array(kernel, "kernel")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def manifest(**changes: Any) -> dict[str, Any]:
    values = lesion_manifest(
        name="strokeseg",
        input__name="input",
        input__patch=list(PATCH),
        input__accepts=[["t1", "flair"]],
        output__name="output",
        output__activation="softmax",
    )
    for key, value in changes.items():
        values[key] = value
    return values


def written(folder: Path, model: onnx.ModelProto, values: dict[str, Any]) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder, values)
    return folder / "net.onnx", folder / "model.toml"


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.FLOAT])
def test_a_foreign_file_answers_as_it_did(tmp_path: Path, kind: int) -> None:
    bundle = import_onnx(
        *written(tmp_path / "given", logits_graph(kind=kind), manifest()), tmp_path / "models"
    )

    patch = np.random.default_rng(2).normal(size=(2, *PATCH)).astype(np.float32)
    answer = open_network(bundle, 1)(patch)

    assert bundle.folder == tmp_path / "models" / "strokeseg" / "0.1.0"
    assert load_bundle(bundle.folder).sha256 == bundle.sha256
    assert answer.dtype == np.float32
    assert np.allclose(
        answer[1], 4 * patch[0] + 8 * patch[1], atol=0.05 if kind == TensorProto.FLOAT16 else 1e-5
    )
    assert "SHA-256" in (bundle.folder / "CARD.md").read_text()


def foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def weights_outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("kernel", TensorProto.FLOAT16, [2, 2, 1, 1, 1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (foreign_operator, "uses operators of 'com.example'"),
        (weights_outside, "keeps weights outside the file"),
        (second_output, "1 input and 2 outputs"),
        (
            lambda model: model.opset_import[0].CopyFrom(helper.make_opsetid("", 99)),
            "uses opset 99; up to 21",
        ),
        (lambda model: model.graph.node[0].input.append("nowhere"), "is no valid ONNX graph"),
        (lambda model: model.graph.ClearField("node"), "is no ONNX file: it holds no graph"),
    ],
)
def test_graphs_that_are_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    model = logits_graph()
    change(model)

    refused(tmp_path, written(tmp_path / "given", model, manifest()), said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (manifest(schema=2), "made for a newer program"),
        (manifest(name="../up"), "cannot name a bundle"),
        (
            manifest(input={**lesion_manifest()["input"], "name": "image"}),
            "has input 'input' and output 'output', the manifest says 'image'",
        ),
        (manifest(input={**manifest()["input"], "channels": ["flair"]}), "has the shape"),
        (manifest(output={**manifest()["output"], "activation": "in-graph"}), "has the shape"),
        (manifest(family="oracle"), "family"),
        (manifest(files={"model.onnx": "0" * 64}), "is not the file that the manifest names"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    refused(tmp_path, written(tmp_path / "given", logits_graph(), values), said)


def test_a_graph_of_another_size_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path, written(tmp_path / "given", logits_graph(size=(8, 10, 13)), manifest()), "has the shape"
    )


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    file, toml = written(tmp_path / "given", logits_graph(), manifest())
    file.write_bytes(file.read_bytes()[:-40])

    refused(tmp_path, (file, toml), r"is no (valid )?ONNX")


def test_an_installed_file_that_is_altered_is_refused(tmp_path: Path) -> None:
    bundle = import_onnx(*written(tmp_path / "given", logits_graph(), manifest()), tmp_path / "models")
    file = bundle.folder / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")

    with pytest.raises(BundleError, match="the SHA-256 differs"):
        load_bundle(bundle.folder)


def test_the_same_bundle_is_not_installed_twice(tmp_path: Path) -> None:
    given = written(tmp_path / "given", logits_graph(), manifest())
    import_onnx(*given, tmp_path / "models")

    with pytest.raises(BundleError, match="is there already"):
        import_onnx(*given, tmp_path / "models")


def refused(tmp_path: Path, given: tuple[Path, Path], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        import_onnx(*given, tmp_path / "models")
    assert not list((tmp_path / "models").glob("**/*")), "something was left behind"
