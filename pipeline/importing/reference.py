"""The walk run by torch in Float32, as nnU-Net itself computes: what an exported graph is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from pipeline.importing.network import Layout, Weights, walk
from pipeline.records import Array, FloatArray


def reference_network(layout: Layout, arrays: Mapping[str, Array]) -> Callable[[FloatArray], FloatArray]:
    """Return the network as a function of one patch to logits.

    A patch is (channel, slice, row, column), and the logits are (class, slice, row, column).
    """

    def run(patch: FloatArray) -> FloatArray:
        x = torch.from_numpy(np.ascontiguousarray(patch, np.float32))[None]
        planar = layout.dimensions == 2
        with torch.inference_mode():
            logits = walk(layout, Weights(arrays), _Torch(), x[:, :, 0] if planar else x)
        answer: FloatArray = (logits[:, :, None] if planar else logits)[0].numpy()
        return answer

    return run


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _optional(array: Array | None) -> torch.Tensor | None:
    return None if array is None else _tensor(array)


class _Torch:
    """`Operations` on torch tensors."""

    def convolve(
        self, x: torch.Tensor, kernel: Array, bias: Array | None, stride: Sequence[int]
    ) -> torch.Tensor:
        """Convolve with zero padding (k - 1) // 2."""
        pads = [(size - 1) // 2 for size in kernel.shape[2:]]
        function = functional.conv3d if len(pads) == 3 else functional.conv2d
        return function(x, _tensor(kernel), _optional(bias), list(stride), pads)

    def normalise(self, x: torch.Tensor, scale: Array, shift: Array, epsilon: float) -> torch.Tensor:
        """Instance normalisation by torch's own function."""
        return functional.instance_norm(x, weight=_tensor(scale), bias=_tensor(shift), eps=epsilon)

    def activate(self, x: torch.Tensor, slope: float) -> torch.Tensor:
        """Leaky ReLU."""
        return functional.leaky_relu(x, slope)

    def enlarge(self, x: torch.Tensor, kernel: Array, bias: Array | None) -> torch.Tensor:
        """Transposed convolution whose stride is its kernel's size."""
        stride = list(kernel.shape[2:])
        function = functional.conv_transpose3d if len(stride) == 3 else functional.conv_transpose2d
        return function(x, _tensor(kernel), _optional(bias), stride)

    def shrink(self, x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
        """Mean over blocks of the stride's size."""
        function = functional.avg_pool3d if len(stride) == 3 else functional.avg_pool2d
        return function(x, list(stride), list(stride))

    def join(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Concatenate channels."""
        return torch.cat([first, second], 1)

    def add(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Sum."""
        return first + second
