"""`import_onnx`: an ONNX file that somebody exported, with a manifest that says what it is, becomes a bundle.

StrokeSeg-style files (Float16 or Float32 inputs, two-class logits, free batch and size) get the node's form:
Float32 in and out, one sample, the patch that the manifest names. Their weights are not touched.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from pipeline.bundles.bundle import Bundle, verify_bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.counts import counted
from pipeline.importing.bundle_files import staged_bundle, write_manifest
from pipeline.importing.problem import ImportProblem
from pipeline.segmenters.families import find_bundle, load_bundle

LARGEST_OPSET = 21
LARGEST_SCHEMA = 1
_FLOATS = {TensorProto.FLOAT: "Float32", TensorProto.FLOAT16: "Float16"}


def import_onnx(
    file: Path, manifest: Path, models: Path, progress: Callable[[str], None] | None = None
) -> Bundle:
    """Install an ONNX file below `models`; the manifest is a bundle's `model.toml`.

    Parameters
    ----------
    manifest
        Its `[files]` may be left out; where it names a hash, the file must have it.

    Raises
    ------
    ImportProblem, BundleError
        It cannot be imported; the message says why, and nothing was installed.
    """
    say = progress or (lambda text: None)
    values = _read_manifest(manifest)
    say("reading the graph")
    data = _read(file)
    digest = hashlib.sha256(data).hexdigest()
    named = values.get("files", {}).get(GRAPH, digest) if isinstance(values.get("files", {}), dict) else None
    if named != digest:
        raise ImportProblem(f"{file.name} is not the file that the manifest names: its SHA-256 is {digest}")
    model = _parse(data, file.name)
    _check_model(model, file.name)
    ready = fit_graph(model, values, file.name).SerializeToString()
    name, version = (str(values.get(key, "")) for key in ("name", "version"))
    with staged_bundle(models, name, version) as folder:
        (folder / GRAPH).write_bytes(ready)
        write_manifest(folder, {**values, "files": {GRAPH: hashlib.sha256(ready).hexdigest()}})
        (folder / "CARD.md").write_text(_card(values, file.name, digest), encoding="utf-8")
        say("running the graph once")
        verify_bundle(load_bundle(folder))
    return find_bundle(models, f"{name}/{version}")


def fit_graph(model: onnx.ModelProto, manifest: Mapping[str, Any], graph_name: str) -> onnx.ModelProto:
    """Return the graph with Float32 input and output and the manifest's shapes.

    Raises
    ------
    ImportProblem
        It has other inputs, outputs, channels, sizes or types than the manifest says.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ImportProblem(
            f"{graph_name} has {counted(len(inputs), 'input')} and {counted(len(graph.output), 'output')}; "
            "one of each is supported"
        )
    try:
        wanted_in, wanted_out = str(manifest["input"]["name"]), str(manifest["output"]["name"])
        channels, patch = (
            len(manifest["input"]["channels"]),
            [int(size) for size in manifest["input"]["patch"]],
        )
        maps = int(
            manifest.get("nnunet", {}).get(
                "classes", 2 if manifest["output"]["activation"] == "softmax" else 1
            )
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise ImportProblem(f"the manifest lacks {problem}") from None
    if (inputs[0].name, graph.output[0].name) != (wanted_in, wanted_out):
        raise ImportProblem(
            f"{graph_name} has input {inputs[0].name!r} and output {graph.output[0].name!r}, the "
            f"manifest says {wanted_in!r} and {wanted_out!r}"
        )
    _widen(graph, inputs[0], [1, channels, *patch], graph_name, enters=True)
    _widen(graph, graph.output[0], [1, maps, *patch], graph_name, enters=False)
    # Sizes between the ends were inferred for the old shapes.
    del graph.value_info[:]
    return model


def _widen(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, shape: list[int], graph_name: str, *, enters: bool
) -> None:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _FLOATS:
        raise ImportProblem(
            f"{graph_name}: {value.name!r} is {TensorProto.DataType.Name(tensor.elem_type)}; "
            "Float32 and Float16 are supported"
        )
    declared_sizes = [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
    if declared_sizes and (
        len(declared_sizes) != len(shape)
        or any(
            size not in (None, 0, needed_size)
            for size, needed_size in zip(declared_sizes, shape, strict=True)
        )
    ):
        raise ImportProblem(
            f"{graph_name}: {value.name!r} has the shape {declared_sizes}, the manifest asks for {shape}"
        )
    narrow = tensor.elem_type == TensorProto.FLOAT16
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
    if not narrow:
        return
    inner = f"{value.name}_float16"
    for node in graph.node:
        names = node.input if enters else node.output
        for number, name in enumerate(names):
            if name == value.name:
                names[number] = inner
        if not enters:
            # What reads the output inside the graph must see the narrow one too.
            for number, name in enumerate(node.input):
                if name == value.name:
                    node.input[number] = inner
    if enters:
        graph.node.insert(0, helper.make_node("Cast", [value.name], [inner], to=TensorProto.FLOAT16))
    else:
        graph.node.append(helper.make_node("Cast", [inner], [value.name], to=TensorProto.FLOAT))


def _check_model(model: onnx.ModelProto, graph_name: str) -> None:
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            raise ImportProblem(
                f"{graph_name} uses operators of {opset.domain!r}; only standard ONNX operators are taken"
            )
        if opset.version > LARGEST_OPSET:
            raise ImportProblem(
                f"{graph_name} uses opset {opset.version}; up to {LARGEST_OPSET} is supported: export it anew"
            )
    outside = [
        tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL
    ]
    if outside:
        raise ImportProblem(
            f"{graph_name} keeps weights outside the file ({outside[0]!r}); save it as one file"
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as problem:
        raise ImportProblem(f"{graph_name} is no valid ONNX graph: {str(problem).splitlines()[0]}") from None


def _parse(data: bytes, graph_name: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as problem:  # noqa: BLE001 - protobuf's errors share no public base class
        raise ImportProblem(f"{graph_name} is no ONNX file: {type(problem).__name__}") from None
    if not model.graph.node:
        raise ImportProblem(f"{graph_name} is no ONNX file: it holds no graph")
    return model


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(_read(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ImportProblem(f"{path.name} is not TOML: {problem}") from None
    schema = values.get("schema")
    if isinstance(schema, int) and schema > LARGEST_SCHEMA:
        raise ImportProblem(
            f"{path.name} was made for a newer program (schema {schema}, this one knows "
            f"{LARGEST_SCHEMA}); update the node"
        )
    return values


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ImportProblem(f"{path} cannot be read: {problem.strerror}") from None


def _card(values: Mapping[str, Any], file: str, digest: str) -> str:
    return (
        f"# {values.get('name')} {values.get('version')}\n\n**{values.get('statement', '')}**\n\n"
        f"Imported from the ONNX file `{file}` (SHA-256 {digest}).\n\n"
        "Training data, results, known failures: to be written by whoever imported it.\n"
    )
