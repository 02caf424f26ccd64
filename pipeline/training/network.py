"""The 3D U-Net with a light full-resolution level, its forms for training and export.

The module also says what every network is rebuilt from.

Nothing about data or schedules lives here. Arrays are (batch, channel, slice, row, column).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.01
EPSILON = 1e-5
FIRST_MIRRORED = 2
"""The finest level of a mirrored 3D network that sees the other side."""
PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Name of a plane to the image axis (slice, row, column) along which its slices are stacked."""


@dataclass(frozen=True)
class Architecture:
    """What is needed to rebuild a network before its weights are loaded.

    Attributes
    ----------
    channels
        Input roles in their binding order, e.g. ("t1", "flair").
    widths
        Feature channels per level, finest first. The finest level has one convolution on each side, because
        it costs eight times a level below it and most errors are of detection, not of the last voxel.
    deep_outputs
        How many coarser levels get their own output while training.
    pyramid
        Each level's logits are added to those of the coarser supervised level. Without it a finest level of
        one convolution can settle where small structures are the absence of every feature, and stays there.
    plane
        Empty for a 3D network; "axial", "coronal" or "sagittal" for a 2D one (`planar_network`) that sees
        slice by slice.
    mirrored
        A 2D network also sees how far each voxel differs from its mirror image on the other side. A 3D one
        mixes the features of the other side into its own from the third level on (StrokeFormer's left/right
        difference, at 8 mm and coarser, where a tilted head matters less than at the voxels). Its input must
        be as wide as the brain, and centred on it.
    shrink
        A 3D network works on a grid that is this many times coarser than its input and output.
    unshuffle
        A 2D network's first level holds blocks of this many pixels squared as channels (Shi et al. 2016), so
        the full resolution costs little; its output is spread over the pixels again.
    other_side
        So many of a 2D network's coarsest levels mix the features of the other side into their own, as a
        mirrored 3D network does. A slice's columns run from side to side, so a sagittal one has no other
        side; the image must lie in the middle of its columns.
    """

    channels: tuple[str, ...]
    widths: tuple[int, ...] = (8, 32, 64, 96, 128)
    deep_outputs: int = 2
    pyramid: bool = True
    plane: str = ""
    mirrored: bool = False
    shrink: int = 1
    unshuffle: int = 1
    other_side: int = 0

    def __post_init__(self) -> None:
        if not self.channels or len(self.widths) < 2:
            raise ValueError(
                f"a network needs a channel and two levels, got {self.channels} and {self.widths}"
            )
        if self.plane not in ("", *PLANES) or (self.shrink > 1 and (self.plane or self.mirrored)):
            raise ValueError(
                f"no network is made of plane={self.plane!r}, mirrored={self.mirrored}, shrink={self.shrink}"
            )
        if self.other_side and (
            self.plane not in ("axial", "coronal") or not 0 < self.other_side <= len(self.widths)
        ):
            raise ValueError(
                f"no network of plane={self.plane!r} and {len(self.widths)} levels sees the other side on "
                f"{self.other_side}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for a checkpoint."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Rebuild from `to_dict`."""
        return cls(
            tuple(values["channels"]),
            tuple(values["widths"]),
            int(values["deep_outputs"]),
            bool(values.get("pyramid", False)),
            str(values.get("plane", "")),
            bool(values.get("mirrored", False)),
            int(values.get("shrink", 1)),
            int(values.get("unshuffle", 1)),
            int(values.get("other_side", 0)),
        )


class InstanceNorm(nn.Module):
    """Instance normalisation with gain and offset.

    `by_axis` computes the same as means over one axis at a time.

    ONNX Runtime's own operator (and ReduceMean over several axes) sums naively in float32, and its error
    grows with the number of voxels; one axis at a time keeps the error near 1e-7.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.by_axis = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each sample over its three spatial axes."""
        if not self.by_axis:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)
        centred = x - _mean_by_axis(x)
        scale = torch.rsqrt(_mean_by_axis(centred * centred) + EPSILON)
        shape = (1, -1, 1, 1, 1)
        return centred * scale * self.weight.reshape(shape) + self.bias.reshape(shape)


def _mean_by_axis(x: Tensor) -> Tensor:
    for axis in (4, 3, 2):
        x = x.mean(dim=axis, keepdim=True)
    return x


class Stage(nn.Module):
    """One or two 3x3x3 convolutions, each with instance normalisation and a leaky rectifier."""

    def __init__(self, channels_in: int, channels_out: int, count: int) -> None:
        super().__init__()
        sizes = [channels_in] + [channels_out] * count
        self.convolutions = nn.ModuleList(
            nn.Conv3d(a, b, 3, padding=1, bias=False) for a, b in itertools.pairwise(sizes)
        )
        self.norms = nn.ModuleList(InstanceNorm(channels_out) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same spatial shape."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.leaky_relu(norm(convolution(x)), NEGATIVE_SLOPE)
        return x


class UNet(nn.Module):
    """Encoder and decoder with skip connections; the output is a logit for each voxel.

    In training mode `forward` returns one logit map per supervised level, finest first; in evaluation mode
    the finest. Every spatial size must be divisible by 2 to the power (levels - 1).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = architecture.widths
        counts = [1] + [2] * (len(widths) - 1)
        self.stem = Stage(len(architecture.channels), widths[0], 1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.encode = nn.ModuleList(Stage(b, b, n) for b, n in zip(widths[1:], counts[1:], strict=True))
        mirrored_widths = widths[FIRST_MIRRORED:] if architecture.mirrored else ()
        self.other_side = nn.ModuleList(nn.Conv3d(w, w, 1, bias=False) for w in mirrored_widths)
        for weight in self.other_side.parameters():
            # A network that goes on from one without this answers as before at first.
            nn.init.zeros_(weight)
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.decode = nn.ModuleList(Stage(2 * a, a, n) for a, n in zip(widths[:-1], counts, strict=False))
        self.heads = nn.ModuleList(nn.Conv3d(w, 1, 1) for w in widths[: architecture.deep_outputs + 1])

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits of shape (batch, 1, slice, row, column), or a list of them in training mode."""
        shrink = self.architecture.shrink
        if shrink > 1:
            x = F.avg_pool3d(x, shrink)
        skips = [self.stem(x)]
        for down, encode in zip(self.down, self.encode, strict=True):
            x = encode(down(skips[-1]))
            if self.architecture.mirrored and len(skips) >= FIRST_MIRRORED:
                x = x + self.other_side[len(skips) - FIRST_MIRRORED](x.flip(-1))
            skips.append(x)
        x = skips.pop()
        outputs: list[Tensor] = []
        supervised = self.architecture.deep_outputs if self.training or self.architecture.pyramid else 0
        for level in reversed(range(len(self.up))):
            x = self.decode[level](torch.cat((self.up[level](x), skips[level]), dim=1))
            if level <= supervised:
                logits = self.heads[level](x)
                if self.architecture.pyramid and outputs:
                    logits = logits + F.interpolate(outputs[-1], scale_factor=2.0, mode="nearest")
                outputs.append(logits)
        if self.training:
            return outputs[::-1]
        return (
            outputs[-1]
            if shrink == 1
            else F.interpolate(outputs[-1], scale_factor=float(shrink), mode="nearest")
        )


class Exportable(nn.Module):
    """The network as it is shipped: probabilities out, normalisation axis by axis, no supervision heads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        for module in self.network.modules():
            if isinstance(module, InstanceNorm):
                module.by_axis = True

    def forward(self, image: Tensor) -> Tensor:
        """Return lesion (or brain) probability, shape (1, 1, slice, row, column)."""
        return torch.sigmoid(self.network(image))


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
