"""The network as an ONNX file: written, its weights stored as Float16, and compared with torch in double precision."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.training.network import Exportable, UNet

OPSET = 17
LARGEST_FLOAT16 = 65504.0
Float = npt.NDArray[np.float32]


class ExportError(ValueError):
    """The network cannot be exported as it is."""


@dataclass(frozen=True)
class Agreement:
    """How closely the exported files follow torch, over a set of inputs.

    Attributes
    ----------
    cases
        Number of inputs.
    max_difference_float32
        Largest probability difference of ONNX Float32 against torch Float64.
    max_difference_float16
        The same for the file with Float16 weights.
    dice_change_mean, dice_change_worst
        Change of the Dice against the truth, Float16 against Float32 weights, absolute.
    mask_dice_worst
        Smallest Dice between the two masks, over cases where the Float32 mask holds more than 1 mL.
    size_ratio
        Bytes of the Float16 file over bytes of the Float32 file.
    """

    cases: int
    max_difference_float32: float
    max_difference_float16: float
    dice_change_mean: float
    dice_change_worst: float
    mask_dice_worst: float
    size_ratio: float


def write_onnx(network: UNet, shape: Sequence[int], path: Path) -> onnx.ModelProto:
    """Write the Float32 graph: input "image" (1, channels, *shape), output "probability" (1, 1, *shape)."""
    exportable = Exportable(copy.deepcopy(network)).eval()
    example = torch.zeros(1, len(network.architecture.channels), *shape)
    with warnings.catch_warnings():
        # The TorchScript exporter writes the few plain operators of this network; the new one needs one more package.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            exportable, (example,), str(path), opset_version=OPSET, dynamo=False, input_names=["image"],
            output_names=["probability"],
        )  # fmt: skip
    model = onnx.load(path)
    onnx.checker.check_model(model)
    forbidden = {"InstanceNormalization", "GroupNormalization"} & {node.op_type for node in model.graph.node}
    if forbidden:
        raise ExportError(f"the graph holds {sorted(forbidden)}, whose CPU kernel drifts in Float32")
    return model


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
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_session(session: object, image: Float) -> Float:
    """Return probability (slice, row, column) of one image (channel, slice, row, column)."""
    return session.run(["probability"], {"image": image[None].astype(np.float32)})[0][0, 0]  # type: ignore[attr-defined, no-any-return]


def compare(
    network: UNet,
    full: onnx.ModelProto,
    half: onnx.ModelProto,
    cases: Iterable[tuple[Float, npt.NDArray[np.bool_]]],
    threshold: float,
    voxel_ml: float,
) -> Agreement:
    """Run the same inputs through torch Float64, ONNX Float32 and ONNX with Float16 weights."""
    double = Exportable(copy.deepcopy(network)).double().eval()
    sessions = open_session(full), open_session(half)
    far32 = far16 = 0.0
    changes, overlaps = [], [1.0]
    for image, truth in cases:
        with torch.inference_mode():
            exact = double(torch.from_numpy(image[None]).double()).numpy()[0, 0]
        wide, narrow = (run_session(session, image) for session in sessions)
        far32 = max(far32, float(np.abs(wide - exact).max()))
        far16 = max(far16, float(np.abs(narrow - exact).max()))
        masks = wide >= threshold, narrow >= threshold
        changes.append(abs(_dice(masks[0], truth) - _dice(masks[1], truth)))
        if masks[0].sum() * voxel_ml > 1.0:
            overlaps.append(_dice(*masks))
    ratio = len(half.SerializeToString()) / len(full.SerializeToString())
    return Agreement(len(changes), far32, far16, float(np.mean(changes)), max(changes), min(overlaps), ratio)


def _dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2.0 * int((first & second).sum()) / total
