"""Training of the three planes side by side.

Each step takes one plane, half of its slices real, half synthetic from any position.

Any moment to stop gives three networks that were trained alike. Every checkpoint of the averaged weights is
kept with its scores, so that the one to ship is chosen afterwards, on slices and on whole volumes.
"""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.training.build import Network, build_network
from pipeline.training.checkpoint import Checkpoint, load_checkpoint
from pipeline.training.devices import choose_device, move_to_cpu
from pipeline.training.network import PLANES, Architecture
from pipeline.training.plane_schedule import PlaneSchedule, plane_architecture
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.slice_source import SliceSource
from pipeline.training.volume_pool import VolumePool

CROSS_ENTROPY_WEIGHT = 3.0
DEEP_WEIGHT = 0.4
EMPTY_WEIGHT = 0.15


def plane_loss(outputs: list[Tensor], target: Tensor) -> Tensor:
    """Return soft Dice plus three times the cross-entropy, on both levels.

    Dice is smoothed by one pixel and taken on slices with a lesion.

    An empty slice has no overlap to reward: its term falls with every false pixel, and weighs little.
    """
    total = target.new_zeros(())
    for weight, output in zip((1.0, DEEP_WEIGHT), outputs, strict=False):
        logits = output.float()
        factor = target.shape[-1] // logits.shape[-1]
        wanted = target if factor == 1 else F.avg_pool2d(target, factor)
        probability = logits.sigmoid()
        overlap, mass, truth = (
            (values).flatten(1).sum(1) for values in (probability * wanted, probability, wanted)
        )
        dice = 1.0 - (2.0 * overlap + 1.0) / (mass + truth + 1.0)
        weights = torch.where(truth > 0, 1.0, EMPTY_WEIGHT)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted)
        total = total + weight * ((weights * dice).mean() + CROSS_ENTROPY_WEIGHT * entropy)
    return total


class PlaneTrainer:
    """One plane's network with its optimiser and its average."""

    def __init__(
        self,
        plane: str,
        architecture: Architecture,
        start: Checkpoint | None,
        dropout: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self.plane = plane
        self.architecture = architecture
        self.device = choose_device(device)
        self.network: Network = build_network(architecture).to(self.device)
        self.network.dropout = dropout
        self.optimiser = _optimiser(self.network)
        self.average = {name: values.clone() for name, values in self.network.state_dict().items()}
        self.step = 0
        if start is not None:
            self.network.load_state_dict(start.weights)
            self.average = {name: values.clone().to(self.device) for name, values in start.average.items()}
            if start.optimiser:
                self.optimiser.load_state_dict(start.optimiser)
            self.step = start.run_steps

    def share(self, other: PlaneTrainer) -> None:
        """Train the weights of the other plane from here on, all but the normalisations and what it lacks.

        A plane keeps its own normalisations: its slices are distributed differently (Chang et al. 2019).
        """
        for name in [name for name, _ in self.network.named_parameters()]:
            owner, _, leaf = name.rpartition(".")
            module = self.network.get_submodule(owner)
            if name in other.average and not isinstance(module, nn.BatchNorm2d):
                setattr(module, leaf, other.network.get_parameter(name))
        state = self.optimiser.state_dict()
        self.optimiser = _optimiser(self.network)
        self.optimiser.load_state_dict(state)

    def train_step(self, images: Tensor, masks: Tensor, rate: float) -> float:
        """Take one step on (sample, channel, row, column) and return the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        axis = 2 + PLANES[self.plane]
        images, masks = images.to(self.device), masks.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            # The network takes volumes: the batch becomes the slices of one.
            outputs = self.network(images.transpose(0, 1)[None].movedim(2, axis))
        levels = [output.movedim(axis, 1)[0] for output in outputs]
        loss = plane_loss(levels, masks)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        decay = min(0.998, (1 + self.step) / (20 + self.step))
        for name, values in self.network.state_dict().items():
            if values.dtype.is_floating_point:
                self.average[name].lerp_(values, 1 - decay)
            else:
                self.average[name].copy_(values)
        return float(loss.detach())

    def checkpoint(self, seconds: float) -> Checkpoint:
        """Return the state of this plane, on the CPU whatever it was trained on."""
        return Checkpoint(
            self.architecture,
            move_to_cpu(self.network.state_dict()),
            move_to_cpu(self.average),
            move_to_cpu(self.optimiser.state_dict()),
            self.step,
            seconds,
            self.step,
            seconds,
        )

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the averaged network's probability (sample, row, column).

        The input is (sample, channel, row, column).
        """
        network = build_network(self.architecture).to(self.device)
        network.load_state_dict(self.average)
        network.eval()
        axis = 2 + PLANES[self.plane]
        parts = []
        for batch in images.split(16):
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                logits = network(batch.to(self.device).transpose(0, 1)[None].movedim(2, axis))
            parts.append(logits.float().movedim(axis, 1)[0, :, 0].sigmoid().cpu())
        return torch.cat(parts)


def _optimiser(network: Network) -> torch.optim.AdamW:
    return torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)


def run_planes(
    schedule: PlaneSchedule,
    folder: Path,
    slices: list[RealSlice],
    pool: VolumePool,
    check: Callable[[dict[str, PlaneTrainer]], dict[str, float]],
    report: Callable[[str], None] = print,
) -> None:
    """Train until the time or the steps are used up; run again on the same folder to go on where it stopped.

    Raises
    ------
    TrainingProblem
        There is no synthetic volume or no real slice of a plane, or a checkpoint cannot be read or written.
    """
    run = _open_run(schedule, folder)
    source = SliceSource(
        slices, pool, schedule, torch.Generator().manual_seed(schedule.seed + int(run.before_s))
    )
    if source.refresh() == 0:
        raise TrainingProblem(f"no volumes in {pool.folder}: run `synthesize-volumes` first")
    checked_s, losses = run.before_s, list[float]()
    try:
        for plane in itertools.cycle(schedule.planes):
            elapsed_s = run.elapsed_s()
            progress = max(elapsed_s / (60 * schedule.minutes), run.steps() / schedule.steps)
            piece_over = (
                schedule.piece_minutes is not None and elapsed_s - run.before_s > 60 * schedule.piece_minutes
            )
            finished = progress >= 1 or piece_over
            if finished or elapsed_s - checked_s > schedule.check_every_s:
                run.save(keep=True)
                row = {
                    "minutes": elapsed_s / 60,
                    "step": run.steps() / len(schedule.planes),
                    "loss": float(np.mean(losses or [0])),
                }
                row |= {"volumes": source.refresh(), **check(run.trainers)}
                _append(folder / schedule.curve, row)
                report("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
                checked_s, losses = run.elapsed_s(), []
            if finished:
                return
            trainer = run.trainers[plane]
            losses.append(trainer.train_step(*source.draw(plane), schedule.rate(trainer.step, progress)))
    except KeyboardInterrupt:
        run.save(keep=False)
        report(f"interrupted at step {run.steps()}, which is saved; run the same command again to go on")
        raise


@dataclass
class _Run:
    """The three trainers and their clock."""

    folder: Path
    trainers: dict[str, PlaneTrainer]
    before_s: float
    started: float

    def elapsed_s(self) -> float:
        """Return the seconds of training, over all pieces."""
        return self.before_s + time.monotonic() - self.started

    def steps(self) -> int:
        """Return the steps of all planes together."""
        return sum(trainer.step for trainer in self.trainers.values())

    def save(self, *, keep: bool) -> None:
        """Write what the run goes on from, and with `keep` also the averaged weights of this minute."""
        seconds = self.elapsed_s()
        for plane, trainer in self.trainers.items():
            checkpoint = trainer.checkpoint(seconds)
            checkpoint.save(self.folder / f"{plane}-last.pt")
            if keep:
                replace(checkpoint, weights=checkpoint.average, optimiser={}).save(
                    self.folder / f"{plane}-{int(seconds / 60):04d}.average.pt"
                )


def _open_run(schedule: PlaneSchedule, folder: Path) -> _Run:
    trainers, before_s = {}, 0.0
    for plane in schedule.planes:
        last = folder / f"{plane}-last.pt"
        architecture = plane_architecture(plane, schedule.widths, schedule.other_side)
        start = load_checkpoint(last, architecture) if last.exists() else None
        trainers[plane] = PlaneTrainer(plane, architecture, start, schedule.dropout, schedule.device)
        before_s = max(before_s, start.run_seconds if start else 0.0)
    if schedule.shared:
        first, *others = trainers.values()
        for trainer in others:
            trainer.share(first)
    return _Run(folder, trainers, before_s, time.monotonic())


def _append(path: Path, row: dict[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({name: f"{value:.4f}" for name, value in row.items()})
