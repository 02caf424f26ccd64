"""Starting from other weights.

Those of a bundle, a network of one modality that becomes one of two, another network's encoder.

Source of `add_channel`: the channel adaptation of Meddahi et al.: repeat the first convolution, rescale it,
keep everything else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.network import Architecture, UNet

FIRST_CONVOLUTION = "stem.convolutions.0.weight"
FIRST_SHORT_CUT = "encode.0.shortcut.weight"


def add_channel(checkpoint: Checkpoint, name: str, copy_of: str | None = None) -> Checkpoint:
    """Return a checkpoint with one more input channel at the end.

    The filters of `copy_of` (default: the first channel) are shared half and half with the new channel, so
    the network answers exactly as before when the new channel holds the same image. The optimiser's state is
    dropped: train on with a lower learning rate.

    Raises
    ------
    CheckpointError
        The channel is there already, or `copy_of` is not.
    """
    channels = checkpoint.architecture.channels
    source = channels[0] if copy_of is None else copy_of
    if name in channels or source not in channels:
        raise CheckpointError(
            f"cannot add channel {name} as a copy of {source} to a network of {list(channels)}"
        )
    index = channels.index(source)
    states = []
    for state in (checkpoint.weights, checkpoint.average):
        filters = state[FIRST_CONVOLUTION].clone()
        filters[:, index] *= 0.5
        states.append(
            {**state, FIRST_CONVOLUTION: torch.cat((filters, filters[:, index : index + 1]), dim=1)}
        )
    architecture = replace(checkpoint.architecture, channels=(*channels, name))
    return Checkpoint(architecture, states[0], states[1], {}, checkpoint.step, checkpoint.seconds)


def read_exported(path: Path, architecture: Architecture) -> Checkpoint:
    """Return a checkpoint with the weights of a `model.onnx` that `onnx_graph.write_onnx` made.

    The optimiser starts anew.

    Convolutions are found by name. The exporter folds the gains and offsets of the normalisations into
    nameless constants, numbered in the order in which the network computes, so these are taken in that order.

    Raises
    ------
    CheckpointError
        The file is not an exported network of this `architecture`.
    """
    import onnx
    from onnx import numpy_helper

    try:
        tensors = {
            t.name.removesuffix("_float16"): numpy_helper.to_array(t).astype("float32")
            for t in onnx.load(path).graph.initializer
        }
    except Exception as error:  # protobuf's own error has no public type information
        raise CheckpointError(f"{path.name} is not an ONNX file: {error}") from error
    network = UNet(architecture)
    expected = network.state_dict()
    norms = [name for name in _norms_in_order(network) for name in (f"{name}.weight", f"{name}.bias")]
    folded = sorted(
        (name for name in tensors if name.startswith("onnx::")), key=lambda name: int(name.rsplit("_", 1)[1])
    )
    source = {
        **{name.removeprefix("network."): name for name in tensors},
        **dict(zip(norms, folded, strict=False)),
    }
    weights = {}
    for name, value in expected.items():
        if (
            name not in source
            and name.startswith(("heads.", "other_side."))
            and not name.startswith("heads.0.")
        ):
            # A network without a pyramid leaves its coarser outputs behind; one that saw one side only knew
            # nothing of the other. Both start anew.
            weights[name] = value
        elif name in source and tensors[source[name]].size == value.numel():
            weights[name] = torch.from_numpy(tensors[source[name]]).reshape(value.shape)
        else:
            raise CheckpointError(
                f"{path.name} holds no network of {architecture}: {name} is missing or of another shape"
            )
    return Checkpoint(architecture, weights, {name: value.clone() for name, value in weights.items()})


def take_encoder(checkpoint: Checkpoint, architecture: Architecture) -> Checkpoint:
    """Return a checkpoint of `architecture`, fresh but for the encoder.

    The encoder is that of the other network (its averaged weights).

    A weight of another shape (an encoder that sees more channels) stays fresh.

    Raises
    ------
    CheckpointError
        Not one weight of the encoder fits.
    """
    fresh = build_network(architecture).state_dict()
    encoder_weights = {
        name: value
        for name, value in checkpoint.average.items()
        if name.startswith("encode.") and name in fresh and fresh[name].shape == value.shape
    }
    if not encoder_weights:
        raise CheckpointError(f"a network of {checkpoint.architecture} has no encoder for {architecture}")
    weights = {**fresh, **encoder_weights}
    return Checkpoint(architecture, weights, {name: value.clone() for name, value in weights.items()})


def _norms_in_order(network: UNet) -> list[str]:
    """Return the names of the normalisation layers in the order of the computation.

    Down the encoder, up the decoder.
    """
    stages = [
        "stem",
        *(f"encode.{n}" for n in range(len(network.encode))),
        *(f"decode.{n}" for n in reversed(range(len(network.decode)))),
    ]
    modules = dict(network.named_modules())
    return [f"{stage}.norms.{n}" for stage in stages for n in range(len(modules[stage].norms))]


def widen_planes(checkpoint: Checkpoint, architecture: Architecture, noise: float = 0.1) -> Checkpoint:
    """Return a checkpoint of `architecture`: a planar network that answers almost as the narrower one did.

    Each further channel is a copy of a channel that is there; what read that channel reads all its copies,
    each with its share of the weight (Net2WiderNet, Chen et al. 2016, section 2.2). Noise of `noise` times a
    weight's own standard deviation lets the copies part. Levels that did not see the other side begin by
    taking nothing from it. The optimiser starts anew.

    Raises
    ------
    CheckpointError
        The two differ in more than their widths, or a level would become narrower.
    """
    narrow, wide = checkpoint.architecture.widths, architecture.widths
    is_wider = len(wide) == len(narrow) and all(new >= old for old, new in zip(narrow, wide, strict=True))
    other_side = architecture.other_side
    if (
        replace(checkpoint.architecture, widths=wide, other_side=other_side) != architecture
        or checkpoint.architecture.other_side not in (0, other_side)
        or not is_wider
    ):
        raise CheckpointError(f"a network of {checkpoint.architecture} cannot be widened to {architecture}")
    generator = torch.Generator().manual_seed(0)
    levels = [
        torch.cat((torch.arange(old), torch.randint(old, (new - old,), generator=generator)))
        for old, new in zip(narrow, wide, strict=True)
    ]
    weights = {
        name: _widen(name, value, levels, checkpoint.architecture)
        for name, value in checkpoint.average.items()
    }
    expected = build_network(architecture).state_dict()
    if FIRST_SHORT_CUT in expected and FIRST_SHORT_CUT not in weights:
        # As many features as inputs: the short cut was the input itself, which now needs copies.
        copied_input = torch.eye(narrow[0])[levels[0]].reshape(wide[0], narrow[0], 1, 1)
        bias_name = FIRST_SHORT_CUT.replace("weight", "bias")
        weights |= {FIRST_SHORT_CUT: copied_input, bias_name: torch.zeros(wide[0])}
    if not checkpoint.architecture.other_side:
        weights |= {
            name: torch.zeros_like(value)
            for name, value in expected.items()
            if name.startswith("other_side.")
        }
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in expected.items()
    }:
        raise CheckpointError(f"a network of {checkpoint.architecture} cannot be widened to {architecture}")
    for name in (name for name, value in weights.items() if value.dim() == 4 and wide != narrow):
        spread = noise * float(weights[name].std())
        weights[name] += spread * torch.randn(weights[name].shape, generator=generator)
    return Checkpoint(architecture, weights, {name: value.clone() for name, value in weights.items()})


def _widen(name: str, value: Tensor, levels: list[Tensor], architecture: Architecture) -> Tensor:
    """Return one tensor of a `PlanarUNet` of `architecture` with its channels copied as `levels` says."""
    narrow, other_side = architecture.widths, architecture.other_side
    part, number, *rest = name.split(".")
    level = int(number)
    if part == "heads":
        return value if rest == ["bias"] else _copy_inputs(value, levels[level], dim=1)
    if part == "other_side":
        coarse = levels[len(levels) - other_side + level]
        return _copy_inputs(value, coarse, dim=1)[coarse]
    if part == "up" and value.dim() > 1:
        return _copy_inputs(value, levels[level + 1], dim=0)[:, levels[level]]
    if value.dim() == 0:
        return value.clone()
    value = value[levels[level]]
    if value.dim() == 1 or (part == "encode" and level == 0 and rest[0] != "second"):
        return value.clone()
    if rest[0] == "second":
        return _copy_inputs(value, levels[level], dim=1)
    if part == "encode":
        return _copy_inputs(value, levels[level - 1], dim=1)
    # What comes up from below, and behind it what skipped the levels below.
    joined_channels = torch.cat((levels[level], levels[level] + narrow[level]))
    return _copy_inputs(value, joined_channels, dim=1)


def _copy_inputs(value: Tensor, source: Tensor, dim: int) -> Tensor:
    """Return `value` with the channels of axis `dim` copied, each copy with its share of the weight."""
    copies = torch.bincount(source, minlength=value.shape[dim])[source].to(value.dtype)
    shape = [1] * value.dim()
    shape[dim] = -1
    return value.index_select(dim, source) / copies.reshape(shape)
