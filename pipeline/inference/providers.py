"""What can run a graph: ONNX Runtime on the CPU (always there), on CUDA, or OpenVINO. All compute in Float32.

OpenVINO is told so twice: on processors with bfloat16 it would otherwise take that, with logit errors of
0.15, and it would gather the means of a normalisation into one long sum. Then it answers as ONNX Runtime
does, in half the time (docs/benchmarks.md).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.bundles.bundle import Bundle, check_graph, open_graph
from pipeline.errors import BundleError
from pipeline.records import FloatArray

PROVIDERS = ("cpu", "cuda", "openvino")
AUTOMATIC = "auto"
Session = Callable[[FloatArray], FloatArray]
"""(1, channel, *patch) in, (1, map, *patch) out."""


def available_providers() -> tuple[str, ...]:
    """Return the providers that this installation and machine offer."""
    import onnxruntime

    available = ["cpu"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        available.append("cuda")
    if _has_openvino():
        available.append("openvino")
    return tuple(available)


def choose_provider(wanted: str) -> str:
    """Return the provider that is meant by `wanted`.

    "auto" is OpenVINO where it is installed, else ONNX Runtime on the CPU.
    """
    if wanted != AUTOMATIC:
        return wanted
    return "openvino" if _has_openvino() else "cpu"


def open_session(bundle: Bundle, threads: int, name: str, provider: str) -> Session:
    """Return one of the bundle's graphs, checked against hash and manifest, as a function of a batch of one.

    Raises
    ------
    BundleError
        The provider is not known or not there, or the graph was altered, cannot be run, or disagrees with the
        manifest.
    """
    if provider not in PROVIDERS:
        raise BundleError(
            f"the provider {provider!r} is not one of {', '.join(PROVIDERS)}", code="provider-unknown"
        )
    if provider not in available_providers():
        package = {"cuda": "onnxruntime-gpu and a CUDA driver"}.get(provider, f"the package {provider}")
        raise BundleError(
            f"the provider {provider!r} is not there: it needs {package}", code="provider-missing"
        )
    if provider == "openvino":
        return _open_openvino(bundle, threads, name)
    session = open_graph(bundle, threads, name, cuda=provider == "cuda")

    def run(batch: FloatArray) -> FloatArray:
        answer: FloatArray = session.run([bundle.output.name], {bundle.input.name: batch})[0]
        return answer

    return run


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _open_openvino(bundle: Bundle, threads: int, name: str) -> Session:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
    }
    graph = bundle.graph_bytes(name)
    try:
        model = core.read_model(model=graph, weights=b"")
        _keep_means_apart(model)
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as problem:  # noqa: BLE001 - OpenVINO's errors share no base class
        raise BundleError(
            f"{bundle.name}: OpenVINO cannot load {name}: {problem}", code="model-unusable"
        ) from None
    check_graph(
        bundle,
        name,
        _tensors(compiled.inputs, bundle.input.name),
        _tensors(compiled.outputs, bundle.output.name),
    )

    def run(batch: FloatArray) -> FloatArray:
        # OpenVINO gives a view of its own memory, which the next run overwrites.
        return np.array(compiled(batch)[0], dtype=np.float32)

    return run


def _keep_means_apart(model: Any) -> None:
    """Write every mean over some axes as sums over one axis each with a division between, last axis first.

    OpenVINO gathers neighbouring means into one (ReduceMerge), and sums it naively in Float32: at 64^3 voxels
    the normalised maps are then off by 3e-4, where axis by axis they are off by 1e-7. A division between two
    sums keeps them apart.
    """
    from openvino import opset13, utils

    for node in model.get_ordered_ops():
        if (
            node.get_type_name() != "ReduceMean"
            or node.input_value(1).get_node().get_type_name() != "Constant"
        ):
            continue
        shape = node.input_value(0).get_partial_shape()
        axes = sorted(
            (int(axis) % len(shape) for axis in node.input_value(1).get_node().data.flat), reverse=True
        )
        if not all(shape[axis].is_static for axis in axes):
            continue
        mean = node.input_value(0)
        for axis in axes:
            total = opset13.reduce_sum(
                mean, np.array([axis], np.int64), keep_dims=node.get_attributes()["keep_dims"]
            )
            mean = opset13.divide(total, np.array(shape[axis].get_length(), np.float32)).output(0)
        mean.get_node().set_friendly_name(node.get_friendly_name())
        utils.replace_node(node, mean.get_node())


def _tensors(ports: Any, wanted: str) -> dict[str, tuple[str, list[Any]]]:
    """Return each port by name; one that is known by several names goes by the wanted one."""
    kinds = {"f32": "tensor(float)", "f16": "tensor(float16)"}
    return {
        wanted if wanted in port.get_names() else port.get_any_name(): (
            kinds.get(port.get_element_type().get_type_name(), "other"),
            [size.get_length() if size.is_static else None for size in port.get_partial_shape()],
        )
        for port in ports
    }
