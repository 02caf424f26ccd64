"""The planes of a bundle, ready to be trained on where their checkpoints are gone.

A shipped graph has its batch normalisations folded into the convolutions before them (`planar_network`), and
a network without them trains badly. Here each folded convolution gets a normalisation back that undoes
itself: mean and spread are those that its output has on a sample of slices, gain and offset restore both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.build import Network, build_network
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.network import PLANES, Architecture
from pipeline.training.planar_network import ResidualBlock, fold_normalisation

FRESH = ("heads.", "other_side.")
"""Parts that a graph may lack: outputs for training alone, and the other side of a network that saw one."""


def unfold_plane(graph: Path, architecture: Architecture, batches: Iterable[Tensor]) -> Checkpoint:
    """Return a checkpoint of `architecture` that answers as the exported graph does, and can be trained on.

    Parameters
    ----------
    graph
        A file that `onnx_graph.write_plane_graph` wrote, Float16 or Float32. That of another plane will do.
    architecture
        Of a planar network with the widths of the graph.
    batches
        Images (sample, channel, row, column) as training shows them; a few dozen slices do.

    Raises
    ------
    CheckpointError
        The file is not a graph of this architecture, or there is no batch.
    """
    folded = build_network(architecture).eval()
    fold_normalisation(folded)
    _load(folded, _read_weights(graph), graph)
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


def _read_weights(graph: Path) -> dict[str, Tensor]:
    import onnx
    from onnx import numpy_helper

    try:
        initializers = onnx.load(graph).graph.initializer
    except Exception as error:  # protobuf's own error has no public type information
        raise CheckpointError(f"{graph} is not an ONNX file: {error}") from error
    return {
        t.name.removesuffix("_float16").removeprefix("network."): torch.from_numpy(
            numpy_helper.to_array(t).astype("float32")
        )
        for t in initializers
    }


def _load(folded: Network, weights: dict[str, Tensor], graph: Path) -> None:
    expected = folded.state_dict()
    wrong = [
        name
        for name, value in expected.items()
        if (name in weights and weights[name].shape != value.shape)
        or (name not in weights and (name.startswith("heads.0.") or not name.startswith(FRESH)))
    ]
    if wrong:
        raise CheckpointError(
            f"{graph} holds no network of {folded.architecture}: {wrong[0]} is missing or of another shape"
        )
    folded.load_state_dict({name: weights.get(name, value) for name, value in expected.items()})


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
