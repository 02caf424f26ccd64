"""What the planes reach while they train: Dice on real slices, and on held-out synthetic volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.training.network import PLANES
from pipeline.training.plane_schedule import SHAPES
from pipeline.training.real_slices import RealSlice
from pipeline.training.slice_augment import fit_shape
from pipeline.training.train_planes import PlaneTrainer
from pipeline.training.volume_pool import open_volume, scale_volume

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def score_planes(
    trainers: dict[str, PlaneTrainer], slices: list[RealSlice], held: list[Path]
) -> dict[str, float]:
    """Return mean Dice on real slices at the best threshold of each plane.

    The second score is that on held-out synthetic volumes at every sixth position.
    """
    row = {}
    generator = torch.Generator().manual_seed(1)
    for plane, trainer in trainers.items():
        group = [item for item in slices if item.plane == plane]
        stacked = []
        for item in group:
            flair = torch.from_numpy(np.ascontiguousarray(item.image))[None].clamp(0, 3)
            both = torch.cat((torch.zeros_like(flair), flair, torch.from_numpy(item.mask)[None].float()))
            stacked.append(fit_shape(both, SHAPES[plane], generator, jitter=0))
        data = torch.stack(stacked)
        probability = trainer.predict(data[:, :2])
        truth = data[:, 2] > 0
        large = truth.flatten(1).sum(1) >= 20
        dices = {t: _mean_dice(probability[large] > t, truth[large]) for t in THRESHOLDS}
        best = max(dices, key=lambda threshold: dices[threshold])
        empty = ~truth.flatten(1).any(1)
        row[f"{plane}"] = dices[best]
        row[f"{plane}_at"] = best
        row[f"{plane}_false_px"] = (
            float((probability[empty] > best).flatten(1).sum(1).float().mean()) if bool(empty.any()) else 0.0
        )
        row[f"{plane}_synth"] = (
            float(np.mean([_volume_dice(trainer, path, best) for path in held])) if held else 0.0
        )
    return row


def _mean_dice(found: Tensor, truth: Tensor) -> float:
    overlap = (found & truth).flatten(1).sum(1).float()
    total = found.flatten(1).sum(1) + truth.flatten(1).sum(1)
    return float((2 * overlap / total.clamp_min(1)).mean()) if len(truth) else 0.0


def _volume_dice(trainer: PlaneTrainer, path: Path, threshold: float) -> float:
    volume = open_volume(path)
    packed = np.ascontiguousarray(np.moveaxis(volume, 1 + PLANES[trainer.plane], 1)[:, 20:140:6])
    image = torch.from_numpy(scale_volume(packed[:2])).movedim(1, 0)
    image[:, 0] = 0.0
    truth = torch.from_numpy(packed[2] > 0)
    found = trainer.predict(image) > threshold
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0
