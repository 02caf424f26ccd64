"""The planes of a bundle, ready to be trained on where their checkpoints are gone.

A shipped graph has its batch normalisations folded into the convolutions before them (`planar_network`), and
a network without them trains badly. Here each folded convolution gets a normalisation back that undoes
itself: mean and spread are those that its output has on a sample of slices, gain and offset restore both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.build import Network, build_network
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.network import PLANES
from pipeline.training.planar_network import ResidualBlock, fold_normalisation
from pipeline.training.plane_schedule import plane_architecture


def unfold_plane(shipped: Network, plane: str, batches: Iterable[Tensor]) -> Checkpoint:
    """Return a checkpoint of `plane` that answers as a shipped network does, and can be trained on.

    The output that serves the training alone is fresh.

    Parameters
    ----------
    shipped
        A folded network, as `plane_proof.read_planes` gives it. That of another plane will do; a sagittal one
        leaves behind what looked at the other side.
    batches
        Images (sample, channel, row, column) as training shows them; a few dozen slices do.

    Raises
    ------
    CheckpointError
        There is no batch.
    """
    architecture = plane_architecture(plane, shipped.architecture.widths, shipped.architecture.other_side)
    folded = build_network(architecture).eval()
    fold_normalisation(folded)
    weights = shipped.state_dict()
    folded.load_state_dict({name: weights[name] for name in folded.state_dict()})
    moments = _measure(folded, batches)
    network = build_network(architecture)
    state = network.state_dict()
    source = folded.state_dict()
    for name, block in folded.named_modules():
        if not isinstance(block, ResidualBlock):
            continue
        for number, part in enumerate(("first", "second")):
            mean, variance = moments[f"{name}.{part}"]
            norm = f"{name}.norms.{number}"
            bias = source.pop(f"{name}.{part}.bias")
            state[f"{norm}.running_mean"] = mean - bias
            state[f"{norm}.running_var"] = variance
            # As the normalisation itself adds it.
            epsilon = float(network.get_submodule(norm).eps)  # type: ignore[arg-type]
            state[f"{norm}.weight"] = (variance + epsilon).sqrt()
            state[f"{norm}.bias"] = mean
    state |= source
    return Checkpoint(architecture, state, copy.deepcopy(state))


@torch.no_grad()
def _measure(folded: Network, batches: Iterable[Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance (channel) of what each folded convolution gives, over all batches."""
    sums: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Any:
        def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            values = output.double()
            count = torch.tensor(float(values.numel() / values.shape[1]))
            parts = [values.sum((0, 2, 3)), (values * values).sum((0, 2, 3)), count]
            sums[name] = [a + b for a, b in zip(sums[name], parts, strict=True)] if name in sums else parts

        return add

    hooks = [
        getattr(block, part).register_forward_hook(watch(f"{name}.{part}"))
        for name, block in folded.named_modules()
        if isinstance(block, ResidualBlock)
        for part in ("first", "second")
    ]
    axis = 2 + PLANES[folded.architecture.plane]
    for batch in batches:
        folded(batch.transpose(0, 1)[None].movedim(2, axis))
    for hook in hooks:
        hook.remove()
    if not sums:
        raise CheckpointError("no slice to measure the network on")
    moments = {}
    for name, (total, squares, count) in sums.items():
        mean = total / count
        moments[name] = (mean.float(), (squares / count - mean * mean).clamp_min(0).float())
    return moments
