"""Scores on synthetic cases whose truth is known.

Thresholds come from them, and the learning curve is drawn as a picture.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluate.overlap import count_overlap
from pipeline.training.build import Network
from pipeline.training.pool import read_sample
from pipeline.training.tasks import keep_channels

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def dice_score(prediction: Tensor, truth: Tensor) -> float:
    """Return the Dice coefficient of two masks; 1 when both are empty."""
    return count_overlap(prediction.numpy(), truth.numpy()).dice


@torch.inference_mode()
def predict(network: Network, image: Tensor) -> Tensor:
    """Return the probability map (slice, row, column) of one (channel, slice, row, column) image."""
    device = next(network.parameters()).device
    logits = network(image[None].to(device).contiguous(memory_format=torch.channels_last_3d))
    return torch.sigmoid(logits.float())[0, 0].cpu()


def validate_network(
    network: Network, paths: Sequence[Path], combinations: Sequence[str]
) -> dict[str, float]:
    """Return the mean Dice at threshold 0.5 for each channel combination."""
    scores: dict[str, list[float]] = {name: [] for name in combinations}
    with torch.autocast(next(network.parameters()).device.type, torch.bfloat16):
        for path in paths:
            image, label = read_sample(path)
            for name in combinations:
                visible = keep_channels(image, network.architecture.channels, name)
                truth = (label > 0.5) & (visible != 0).any(dim=0)
                scores[name].append(dice_score(predict(network, visible) >= 0.5, truth))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def append_curve(path: Path, row: dict[str, float]) -> None:
    """Add one line to the run's CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def draw_curves(table: Path, picture: Path) -> None:
    """Draw every score column of the CSV against the step."""
    from matplotlib.figure import Figure

    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    steps = [float(r["step"]) for r in rows]
    for name in (k for k in rows[0] if k not in ("step", "minutes", "loss")):
        axis.plot(steps, [float(r[name]) for r in rows], marker="o", markersize=3, label=name)
    axis.set(xlabel="optimiser step", ylabel="mean Dice, synthetic validation, threshold 0.5", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
