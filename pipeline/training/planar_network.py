"""The 2D residual U-Net that sees a volume slice by slice along one axis.

The method is that of arXiv 2511.07281; depth and widths are our own.

It takes and gives whole volumes, (batch, channel, slice, row, column): cutting them into slices is part of
the graph, so a bundle's file is run like any other. Batch normalisation keeps a slice's own brightness, and
costs nothing once the exporter has folded it into the convolutions.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.training.network import NEGATIVE_SLOPE, PLANES, Architecture

FIRST_DROPPED = 2
"""The finest level of the encoder that loses features while training."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a short cut (He et al. 2016); `stride` halves the slice."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels_out) for _ in range(2))
        same_shape = channels_in == channels_out and stride == 1
        self.shortcut = (
            nn.Identity() if same_shape else nn.Conv2d(channels_in, channels_out, 1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same or half the size."""
        inner = F.leaky_relu(self.norms[0](self.first(x)), NEGATIVE_SLOPE)
        inner = self.norms[1](self.second(inner))
        return F.leaky_relu(inner + self.shortcut(x), NEGATIVE_SLOPE)


class PlanarUNet(nn.Module):
    """Residual encoder and decoder with skip connections over the slices of one plane.

    In training mode `forward` returns one logit map per supervised level, finest first; in evaluation mode
    the finest. Both sizes of a slice must be divisible by `unshuffle` times 2 to the power (levels - 1).

    `dropout` is the share of whole features that the encoder's coarse levels lose while training.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.dropout = 0.0
        widths = architecture.widths
        inputs = len(architecture.channels) * (2 if architecture.mirrored else 1) * architecture.unshuffle**2
        self.encode = nn.ModuleList(
            ResidualBlock(a, b, stride=1 if level == 0 else 2)
            for level, (a, b) in enumerate(itertools.pairwise((inputs, *widths)))
        )
        compared_widths = widths[len(widths) - architecture.other_side :]
        self.other_side = nn.ModuleList(nn.Conv2d(w, w, 1, bias=False) for w in compared_widths)
        for weight in self.other_side.parameters():
            # A network that goes on from one without this answers as before at first.
            nn.init.zeros_(weight)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.decode = nn.ModuleList(ResidualBlock(2 * a, a) for a in widths[:-1])
        # Pixel (row, column) of a block of channel c becomes channel (c, row, column).
        block = architecture.unshuffle
        self.moves: Tensor
        self.register_buffer("moves", torch.eye(inputs).reshape(inputs, -1, block, block), persistent=False)
        outputs = architecture.unshuffle**2
        self.heads = nn.ModuleList(nn.Conv2d(w, outputs, 1) for w in widths[: architecture.deep_outputs + 1])

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits of shape (batch, 1, slice, row, column), or a list of them in training mode."""
        if self.architecture.mirrored:
            x = torch.cat((x, mirror_difference(x)), dim=1)
        axis = 2 + PLANES[self.architecture.plane]
        batch, count = x.shape[0], x.shape[axis]
        slices = x.movedim(axis, 1).flatten(0, 1)
        outputs = self._segment(slices)
        stacked = [logits.reshape(batch, count, *logits.shape[1:]).movedim(1, axis) for logits in outputs]
        return stacked if self.training else stacked[0]

    def _segment(self, slices: Tensor) -> list[Tensor]:
        """Return logits (slice, 1, row, column) of each supervised level, finest first.

        Of the finest alone in evaluation mode.
        """
        block = self.architecture.unshuffle
        if block > 1:
            slices = self._unshuffle(slices)
        slices = slices.contiguous(memory_format=torch.channels_last)
        skips = []
        finest_compared = len(self.encode) - len(self.other_side)
        for level, encode in enumerate(self.encode):
            slices = encode(slices)
            if level >= finest_compared:
                slices = slices + self.other_side[level - finest_compared](slices.flip(-1))
            if self.training and self.dropout > 0 and level >= FIRST_DROPPED:
                slices = F.dropout2d(slices, self.dropout)
            skips.append(slices)
        slices = skips.pop()
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.up))):
            slices = self.decode[level](torch.cat((self.up[level](slices), skips[level]), dim=1))
            if level <= (self.architecture.deep_outputs if self.training else 0):
                logits = self.heads[level](slices)
                outputs.append(F.pixel_shuffle(logits, block) if block > 1 else logits)
        return outputs[::-1]

    def _unshuffle(self, slices: Tensor) -> Tensor:
        """Return every block of pixels as as many channels of one pixel.

        An exported graph does it by a convolution that only moves values: the exporter writes the operator
        itself with the sizes of its example, and a graph is to take slices of other sizes too.
        """
        block = self.architecture.unshuffle
        if torch.onnx.is_in_onnx_export():
            return F.conv2d(slices, self.moves, stride=block)
        return F.pixel_unshuffle(slices, block)


def size_divisor(architecture: Architecture) -> int:
    """Return what both sizes of a slice must be multiples of."""
    # Each further level halves what the blocks have left.
    return int(architecture.unshuffle * 2 ** (len(architecture.widths) - 1))


def mirror_difference(x: Tensor) -> Tensor:
    """Return |x - x mirrored left to right| inside the head.

    The grid is centred on the brain, so its middle is the mirror.
    """
    return (x - x.flip(-1)).abs() * (x != 0).to(x.dtype)


def fold_normalisation(network: nn.Module) -> None:
    """Fold every batch normalisation of a planar network into the convolution before it, in place.

    The answers stay the same.
    """
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.first = fuse_conv_bn_eval(block.first, _as_norm(block.norms[0]))
            block.second = fuse_conv_bn_eval(block.second, _as_norm(block.norms[1]))
            block.norms = nn.ModuleList([nn.Identity(), nn.Identity()])


def _as_norm(module: nn.Module) -> nn.BatchNorm2d:
    if not isinstance(module, nn.BatchNorm2d):
        raise TypeError("the normalisation is folded already")
    return module
