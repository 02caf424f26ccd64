"""nnU-Net's U-Nets as one walk over their weights.

The same walk writes the ONNX graph and runs the reference in torch.

The weights' names and shapes say how many convolutions there are and how large; the plans add the strides. A
weight that the walk does not use, or uses and does not find, refuses the checkpoint: it is another
architecture than the plans say.

Names are those of `dynamic_network_architectures` (v2: PlainConvUNet, ResidualEncoderUNet) and of v1's
`Generic_UNet`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.counts import counted
from pipeline.importing.problem import ImportProblem
from pipeline.records import Array

KINDS = ("plain", "residual", "generic")
Tensor = Any
"""What one kind of `Operations` works on: a name in an ONNX graph, or a torch tensor."""


@dataclass(frozen=True)
class Layout:
    """What the weights alone do not say.

    Attributes
    ----------
    kind
        "plain" or "residual" (v2), "generic" (v1).
    strides
        One for each encoder stage, the first usually all ones; as many numbers each as the network has
        dimensions.
    epsilon, slope
        Of the instance normalisation and of the leaky ReLU.
    """

    kind: str
    strides: tuple[tuple[int, ...], ...]
    epsilon: float = 1e-5
    slope: float = 0.01

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.strides[0])


class Operations(Protocol):
    """The few operations that these networks are made of."""

    def convolve(self, x: Tensor, kernel: Array, bias: Array | None, stride: Sequence[int]) -> Tensor:
        """Convolve with zero padding (k - 1) // 2."""

    def normalise(self, x: Tensor, scale: Array, shift: Array, epsilon: float) -> Tensor:
        """Give each channel of each sample mean 0 and variance 1, then scale and shift."""

    def activate(self, x: Tensor, slope: float) -> Tensor:
        """Leaky ReLU."""

    def enlarge(self, x: Tensor, kernel: Array, bias: Array | None) -> Tensor:
        """Transposed convolution whose stride is its kernel's size."""

    def shrink(self, x: Tensor, stride: Sequence[int]) -> Tensor:
        """Mean over blocks of the stride's size."""

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Concatenate channels."""

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """Sum."""


class Weights:
    """The weights of one checkpoint by name; remembers which were used."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = {}
        for name, array in arrays.items():
            plain = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
            # The same modules are registered under second names.
            if ".all_modules." not in plain and not plain.startswith("decoder.encoder."):
                self._arrays[plain] = array
        self._used: set[str] = set()

    def take(self, name: str) -> Array:
        """Return one weight.

        Raises
        ------
        ImportProblem
            It is not there.
        """
        if name not in self._arrays:
            raise ImportProblem(
                f"the checkpoint has no weight {name!r}: its network is not the one that the plans describe"
            )
        self._used.add(name)
        return self._arrays[name]

    def find(self, name: str) -> Array | None:
        """Return one weight, or None."""
        return self.take(name) if name in self._arrays else None

    def count(self, pattern: str) -> int:
        """Return how many numbers 0, 1, 2... fit in place of {} in `pattern`, in a row."""
        number = 0
        while any(name.startswith(pattern.format(number)) for name in self._arrays):
            number += 1
        return number

    def refuse_leftovers(self, ignored: str) -> None:
        """Raise when a weight was not used and does not match the pattern of what training alone needs."""
        left = sorted(name for name in self._arrays if name not in self._used and not re.match(ignored, name))
        if left:
            raise ImportProblem(
                f"the checkpoint has {counted(len(left), 'weight')} that its architecture does not explain, "
                f"first {left[0]!r}: "
                "it is a changed architecture, which is not supported"
            )


def walk(layout: Layout, weights: Weights, operations: Operations, x: Tensor) -> Tensor:
    """Send `x` through the network; return its logits, (1, class, *patch).

    Raises
    ------
    ImportProblem
        The weights do not fit the layout.
    """
    if layout.kind == "generic":
        logits = _generic(layout, weights, operations, x)
        weights.refuse_leftovers(r"seg_outputs\.\d+\.weight$")
    else:
        skips = _Blocks(layout, weights, operations).encode(x)
        logits = _Blocks(layout, weights, operations).decode(skips)
        weights.refuse_leftovers(r"decoder\.seg_layers\.\d+\.(weight|bias)$")
    return logits


class _Blocks:
    """The parts that v2's networks share."""

    def __init__(self, layout: Layout, weights: Weights, operations: Operations) -> None:
        self.layout, self.weights, self.operations = layout, weights, operations
        self.ones = (1,) * layout.dimensions

    def convolution(
        self, x: Tensor, conv: str, norm: str, stride: Sequence[int], *, activate: bool = True
    ) -> Tensor:
        """Return convolution, normalisation and, where asked, activation."""
        kernel = self.weights.take(f"{conv}.weight")
        if kernel.ndim != 2 + self.layout.dimensions:
            raise ImportProblem(
                f"{conv}.weight has {counted(kernel.ndim - 2, 'dimension')}, "
                f"the plans say {self.layout.dimensions}"
            )
        # A constant added before instance normalisation is taken out again by it, so the bias is read but not
        # kept.
        self.weights.find(f"{conv}.bias")
        x = self.operations.convolve(x, kernel, None, stride)
        x = self.operations.normalise(
            x, self.weights.take(f"{norm}.weight"), self.weights.take(f"{norm}.bias"), self.layout.epsilon
        )
        return self.operations.activate(x, self.layout.slope) if activate else x

    def enlarge(self, x: Tensor, name: str, stride: Sequence[int]) -> Tensor:
        """Return the transposed convolution, whose kernel must be the encoder's stride."""
        kernel = self.weights.take(f"{name}.weight")
        if tuple(kernel.shape[2:]) != tuple(stride):
            raise ImportProblem(
                f"{name} enlarges by {kernel.shape[2:]}, the plans' stride is {tuple(stride)}"
            )
        return self.operations.enlarge(x, kernel, self.weights.find(f"{name}.bias"))

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the output of each encoder stage."""
        residual = self.layout.kind == "residual"
        if residual:
            x = self.convolution(x, "encoder.stem.convs.0.conv", "encoder.stem.convs.0.norm", self.ones)
        skips = []
        for stage, stride in enumerate(self.layout.strides):
            x = (
                self.residual_stage(x, f"encoder.stages.{stage}", stride)
                if residual
                else self.plain_stage(x, stage, stride)
            )
            skips.append(x)
        if self.weights.count("encoder.stages.{}.") != len(skips):
            raise ImportProblem(f"the checkpoint has another number of stages than the plans' {len(skips)}")
        return skips

    def plain_stage(self, x: Tensor, stage: int, stride: Sequence[int]) -> Tensor:
        """Return one stage of plain convolutions, the first of them strided."""
        for number in range(max(1, self.weights.count(f"encoder.stages.{stage}.0.convs.{{}}."))):
            name = f"encoder.stages.{stage}.0.convs.{number}"
            x = self.convolution(x, f"{name}.conv", f"{name}.norm", stride if number == 0 else self.ones)
        return x

    def residual_stage(self, x: Tensor, name: str, stride: Sequence[int]) -> Tensor:
        """Return one stage of residual blocks.

        The first shrinks, on the side path by averaging and a 1x1 convolution.
        """
        for number in range(max(1, self.weights.count(f"{name}.blocks.{{}}."))):
            block = f"{name}.blocks.{number}"
            step = tuple(stride) if number == 0 else self.ones
            side, axis_number = x, 0
            if step != self.ones:
                side, axis_number = self.operations.shrink(side, step), 1
            if self.weights.find(f"{block}.skip.{axis_number}.conv.weight") is not None:
                side = self.convolution(
                    side,
                    f"{block}.skip.{axis_number}.conv",
                    f"{block}.skip.{axis_number}.norm",
                    self.ones,
                    activate=False,
                )
            x = self.convolution(x, f"{block}.conv1.conv", f"{block}.conv1.norm", step)
            x = self.convolution(x, f"{block}.conv2.conv", f"{block}.conv2.norm", self.ones, activate=False)
            x = self.operations.activate(self.operations.add(x, side), self.layout.slope)
        return x

    def decode(self, skips: Sequence[Tensor]) -> Tensor:
        """Return the logits at full resolution."""
        x = skips[-1]
        steps = len(skips) - 1
        for step in range(steps):
            x = self.enlarge(x, f"decoder.transpconvs.{step}", self.layout.strides[-1 - step])
            x = self.operations.join(x, skips[-2 - step])
            for number in range(max(1, self.weights.count(f"decoder.stages.{step}.convs.{{}}."))):
                name = f"decoder.stages.{step}.convs.{number}"
                x = self.convolution(x, f"{name}.conv", f"{name}.norm", self.ones)
        last = f"decoder.seg_layers.{steps - 1}"
        return self.operations.convolve(
            x, self.weights.take(f"{last}.weight"), self.weights.find(f"{last}.bias"), self.ones
        )


def _generic(layout: Layout, weights: Weights, operations: Operations, x: Tensor) -> Tensor:
    """Walk v1's Generic_UNet: every stage is a row of blocks, the deepest and the decoder's in two groups."""
    blocks = _Blocks(layout, weights, operations)

    def row(x: Tensor, name: str, stride: Sequence[int]) -> Tensor:
        for number in range(max(1, weights.count(f"{name}.blocks.{{}}."))):
            block = f"{name}.blocks.{number}"
            x = blocks.convolution(
                x, f"{block}.conv", f"{block}.instnorm", stride if number == 0 else blocks.ones
            )
        return x

    skips = []
    deepest = len(layout.strides) - 1
    for stage, stride in enumerate(layout.strides[:-1]):
        x = row(x, f"conv_blocks_context.{stage}", stride)
        skips.append(x)
    x = row(x, f"conv_blocks_context.{deepest}.0", layout.strides[-1])
    x = row(x, f"conv_blocks_context.{deepest}.1", blocks.ones)
    for step in range(deepest):
        x = operations.join(blocks.enlarge(x, f"tu.{step}", layout.strides[-1 - step]), skips[-1 - step])
        x = row(x, f"conv_blocks_localization.{step}.0", blocks.ones)
        x = row(x, f"conv_blocks_localization.{step}.1", blocks.ones)
    last = f"seg_outputs.{deepest - 1}"
    return operations.convolve(x, weights.take(f"{last}.weight"), weights.find(f"{last}.bias"), blocks.ones)
