"""The training loss: soft Dice plus weighted cross-entropy, on every supervised level."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

LEVEL_WEIGHTS = (1.0, 0.4, 0.2, 0.1)
CROSS_ENTROPY_WEIGHT = 4.0
SMOOTHING_VOXELS = 8.0


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice, averaged over samples; both (batch, 1, slice, row, column).

    The smoothing gives a case without lesion a loss that falls with every false voxel.
    """
    probability = logits.sigmoid().flatten(1)
    target = target.flatten(1)
    overlap = (probability * target).sum(1)
    total = probability.sum(1) + target.sum(1)
    return (1.0 - (2.0 * overlap + SMOOTHING_VOXELS) / (total + SMOOTHING_VOXELS)).mean()


def segmentation_loss(outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the weighted sum over levels; a coarser level is compared with the average-pooled target."""
    total = target.new_zeros(())
    for weight, output in zip(LEVEL_WEIGHTS, outputs, strict=False):
        logits = output.float()
        # A 2D network's levels are coarser within the slice only.
        factor = tuple(
            fine // coarse for fine, coarse in zip(target.shape[2:], logits.shape[2:], strict=True)
        )
        pooled_target = target if set(factor) == {1} else F.avg_pool3d(target, factor)
        entropy = F.binary_cross_entropy_with_logits(logits, pooled_target)
        total = total + weight * (soft_dice_loss(logits, pooled_target) + CROSS_ENTROPY_WEIGHT * entropy)
    return total
