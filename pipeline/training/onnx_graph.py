"""The network as an ONNX file: written, its weights stored as Float16, opened and run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.training.build import Network
from pipeline.training.network import PLANES, Exportable
from pipeline.training.problem import TrainingProblem

OPSET = 17
LARGEST_FLOAT16 = 65504.0
Float = npt.NDArray[np.float32]


class ExportError(TrainingProblem):
    """The network cannot be exported as it is."""


def write_onnx(
    network: Network, shape: Sequence[int], path: Path, free_axes: Sequence[int] = ()
) -> onnx.ModelProto:
    """Write the Float32 graph: input "image" (1, channels, *shape), output "probability" (1, 1, *shape).

    Along `free_axes` (0: slice, 1: row, 2: column) it takes other sizes than those of `shape`, too.
    """
    exportable = Exportable(copy.deepcopy(network)).eval()
    example = torch.zeros(1, len(network.architecture.channels), *shape)
    free = {2 + axis: ("slice", "row", "column")[axis] for axis in free_axes}
    with warnings.catch_warnings():
        # The TorchScript exporter writes the few plain operators of this network; the new one needs one more
        # package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            exportable, (example,), str(path), opset_version=OPSET, dynamo=False, input_names=["image"],
            output_names=["probability"], dynamic_axes={"image": free, "probability": free},
        )  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model)
    forbidden = {"InstanceNormalization", "GroupNormalization"} & {node.op_type for node in model.graph.node}
    if forbidden:
        raise ExportError(f"the graph holds {sorted(forbidden)}, whose CPU kernel drifts in Float32")
    return model


def write_plane_graph(network: Network, shape: Sequence[int], path: Path) -> onnx.ModelProto:
    """Write the Float32 graph of a 2D network: as `write_onnx`, and free in the size of its slices."""
    stacked = PLANES[network.architecture.plane]
    return write_onnx(network, shape, path, [axis for axis in range(3) if axis != stacked])


def store_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same graph with Float16 initialisers, each widened to Float32 by a Cast where it is used.

    Raises
    ------
    ExportError
        A weight is not finite or does not fit Float16.
    """
    half = copy.deepcopy(model)
    casts = []
    for tensor in half.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > LARGEST_FLOAT16:
            raise ExportError(f"the weights {tensor.name} do not fit Float16 (NaN, infinite or above 65504)")
        name, stored = tensor.name, tensor.name + "_float16"
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT, name=f"widen_{name}"))
    nodes = list(half.graph.node)
    del half.graph.node[:]
    half.graph.node.extend(casts + nodes)
    onnx.checker.check_model(half)
    return half


def open_session(model: onnx.ModelProto, threads: int = 1) -> object:
    """Return an ONNX Runtime CPU session."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run_session(session: object, image: Float) -> Float:
    """Return probability (slice, row, column) of one image (channel, slice, row, column)."""
    inputs = {"image": image[None].astype(np.float32)}
    return session.run(["probability"], inputs)[0][0, 0]  # type: ignore[attr-defined, no-any-return]
