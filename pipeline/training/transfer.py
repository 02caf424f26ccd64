"""Starting from other weights: a network of one modality becomes one of two.

Source: the channel adaptation of Meddahi et al.: repeat the first convolution, rescale it, keep everything else.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pipeline.training.checkpoint import Checkpoint, CheckpointError

FIRST_CONVOLUTION = "stem.convolutions.0.weight"


def add_channel(checkpoint: Checkpoint, name: str, copy_of: str | None = None) -> Checkpoint:
    """Return a checkpoint with one more input channel at the end.

    The filters of `copy_of` (default: the first channel) are shared half and half with the new channel, so the network
    answers exactly as before when the new channel holds the same image. The optimiser's state is dropped: train on
    with a lower learning rate.

    Raises
    ------
    CheckpointError
        The channel is there already, or `copy_of` is not.
    """
    channels = checkpoint.architecture.channels
    source = channels[0] if copy_of is None else copy_of
    if name in channels or source not in channels:
        raise CheckpointError(f"cannot add channel {name} as a copy of {source} to a network of {list(channels)}")
    index = channels.index(source)
    states = []
    for state in (checkpoint.weights, checkpoint.average):
        filters = state[FIRST_CONVOLUTION].clone()
        filters[:, index] *= 0.5
        states.append({**state, FIRST_CONVOLUTION: torch.cat((filters, filters[:, index : index + 1]), dim=1)})
    architecture = replace(checkpoint.architecture, channels=(*channels, name))
    return Checkpoint(architecture, states[0], states[1], {}, checkpoint.step, checkpoint.seconds)
