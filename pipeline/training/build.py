"""From an architecture to its network: the one place that knows every kind."""

from __future__ import annotations

import torch

from pipeline.training.network import Architecture, UNet
from pipeline.training.planar_network import PlanarUNet

Network = UNet | PlanarUNet


def build_network(architecture: Architecture) -> Network:
    """Return the network with fresh weights, laid out in memory as the CPU's convolutions want them."""
    if architecture.plane:
        planar = PlanarUNet(architecture)
        return planar.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    volumetric = UNet(architecture)
    return volumetric.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]
