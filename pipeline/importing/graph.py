"""The walk written as an ONNX graph. Instance normalisation is written as means taken axis by axis.

ONNX Runtime's own InstanceNormalization sums naively in Float32 and drifts by 1e-4 and more at 128^3
(training-recipe, ONNX part).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.importing.network import Layout, Weights, walk
from pipeline.records import Array

OPSET = 17
IR_VERSION = 8
INPUT, OUTPUT = "image", "logits"


def write_graph(
    layout: Layout, weights: Weights, channels: int, patch: Sequence[int]
) -> tuple[onnx.ModelProto, int]:
    """Return the Float32 graph, input (1, channel, *patch) with three axes also for a 2D network.

    The second value is its number of classes.

    Raises
    ------
    ImportProblem
        The weights do not fit the layout.
    """
    writer = _Writer(layout.dimensions, patch)
    x = writer.enter()
    logits = walk(layout, weights, writer, x)
    classes = writer.channels_of(logits)
    writer.leave(logits)
    graph = helper.make_graph(
        writer.nodes,
        "nnunet",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, channels, *patch])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, classes, *patch])],
        writer.initialisers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model, classes


class _Writer:
    """`Operations` on names of ONNX values; keeps each value's channels and size."""

    def __init__(self, dimensions: int, patch: Sequence[int]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []
        self._axes = list(range(2, 2 + dimensions))
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._joined: dict[str, tuple[str, str]] = {}
        self._patch = tuple(patch)

    def enter(self) -> str:
        """Return the name of the network's input; a 2D network loses the slice axis here."""
        if len(self._axes) == 3:
            self._shapes[INPUT] = (0, *self._patch)
            return INPUT
        axis = self._constant(np.array([2], np.int64), "slice_axis")
        return self._node("Squeeze", [INPUT, axis], (0, *self._patch[1:]))

    def leave(self, logits: str) -> None:
        """Name the answer; a 2D network gets its slice axis back."""
        if len(self._axes) == 2:
            logits = self._node("Unsqueeze", [logits, "slice_axis"], (self._shapes[logits][0], *self._patch))
        self.nodes[-1].output[0] = OUTPUT

    def channels_of(self, value: str) -> int:
        """Return how many channels a value has."""
        return self._shapes[value][0]

    def convolve(self, x: str, kernel: Array, bias: Array | None, stride: Sequence[int]) -> str:
        """Convolve with zero padding (k - 1) // 2; over joined channels as the sum of two convolutions.

        The joined maps would be the largest array of all: without them a 128^3 patch needs a quarter less
        memory.
        """
        if x in self._joined:
            first, second = self._joined[x]
            channels = self._shapes[first][0]
            return self.add(
                self.convolve(first, kernel[:, :channels], bias, stride),
                self.convolve(second, kernel[:, channels:], None, stride),
            )
        pads = [(size - 1) // 2 for size in kernel.shape[2:]]
        sizes = [
            (n + 2 * pad - k) // step + 1
            for n, pad, k, step in zip(self._shapes[x][1:], pads, kernel.shape[2:], stride, strict=True)
        ]
        inputs = [x, self._weight(kernel), *([] if bias is None else [self._weight(bias)])]
        return self._node("Conv", inputs, (kernel.shape[0], *sizes), strides=list(stride), pads=pads * 2)

    def normalise(self, x: str, scale: Array, shift: Array, epsilon: float) -> str:
        """Write mean and variance axis by axis, last axis first."""
        shape = self._shapes[x]
        small = (shape[0], *(1 for _ in self._axes))
        mean = x
        for axis in reversed(self._axes):
            mean = self._node("ReduceMean", [mean], small, axes=[axis], keepdims=1)
        centred = self._node("Sub", [x, mean], shape)
        squares = self._node("ReduceSumSquare", [centred], small, axes=[self._axes[-1]], keepdims=1)
        squares = self._node("Div", [squares, self._number(shape[-1])], small)
        for axis in reversed(self._axes[:-1]):
            squares = self._node("ReduceMean", [squares], small, axes=[axis], keepdims=1)
        deviation = self._node("Sqrt", [self._node("Add", [squares, self._number(epsilon)], small)], small)
        gain = self._node("Div", [self._weight(scale.reshape(1, *small)), deviation], small)
        return self._node(
            "Add", [self._node("Mul", [centred, gain], shape), self._weight(shift.reshape(1, *small))], shape
        )

    def activate(self, x: str, slope: float) -> str:
        """Leaky ReLU."""
        return self._node("LeakyRelu", [x], self._shapes[x], alpha=slope)

    def enlarge(self, x: str, kernel: Array, bias: Array | None) -> str:
        """Transposed convolution whose stride is its kernel's size."""
        stride = kernel.shape[2:]
        inputs = [x, self._weight(kernel), *([] if bias is None else [self._weight(bias)])]
        sizes = [n * step for n, step in zip(self._shapes[x][1:], stride, strict=True)]
        return self._node("ConvTranspose", inputs, (kernel.shape[1], *sizes), strides=list(stride))

    def shrink(self, x: str, stride: Sequence[int]) -> str:
        """Mean over blocks of the stride's size."""
        channels, *sizes = self._shapes[x]
        shape = (channels, *(n // step for n, step in zip(sizes, stride, strict=True)))
        return self._node("AveragePool", [x], shape, kernel_shape=list(stride), strides=list(stride))

    def join(self, first: str, second: str) -> str:
        """Remember two values as one; a convolution follows, which takes them apart."""
        name = f"{first}+{second}"
        self._joined[name] = (first, second)
        return name

    def add(self, first: str, second: str) -> str:
        """Sum."""
        return self._node("Add", [first, second], self._shapes[first])

    def _node(self, operator: str, inputs: Sequence[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        self._shapes[name] = shape
        return name

    def _weight(self, array: Array) -> str:
        return self._constant(np.ascontiguousarray(array, np.float32))

    def _constant(self, array: Array, name: str = "") -> str:
        name = name or f"weight_{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(array, name))
        return name

    def _number(self, value: float) -> str:
        """Return a constant that is no initialiser, so it is not rounded when the weights become Float16."""
        return self._node("Constant", [], (), value=numpy_helper.from_array(np.array(value, np.float32)))
