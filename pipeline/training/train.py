"""The training loop: draws from the pool, steps, averages, checks and saves; stops by the clock or by steps."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint, load_checkpoint
from pipeline.training.losses import segmentation_loss
from pipeline.training.network import PLANES
from pipeline.training.pool import Pool, read_sample
from pipeline.training.tasks import Task, vary
from pipeline.training.validate import append_curve, draw_curves, validate_network

WARM_UP_STEPS = 50
FINAL_SHARE = 0.03
AVERAGE_DECAY = 0.995


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one run trains.

    Attributes
    ----------
    minutes, steps
        The run ends at whichever comes first.
    validate_every_s, save_every_s
        Seconds between validations and between checkpoints.
    crop_share
        Share of the steps on random crops, where the task has a crop shape.
    """

    minutes: float = 60.0
    steps: int = 1_000_000
    learning_rate: float = 1.5e-3
    validate_every_s: float = 300.0
    save_every_s: float = 120.0
    crop_share: float = 0.8
    seed: int = 0
    compiled: bool = False

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate: linear warm-up, then a cosine over the run's progress (0..1)."""
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.learning_rate * fall * min(1.0, (step + 1) / WARM_UP_STEPS)


class Trainer:
    """One run: the network, its average, its optimiser and its place in the schedule."""

    def __init__(self, task: Task, schedule: Schedule, pool: Pool, start: Checkpoint | None) -> None:
        torch.manual_seed(schedule.seed)
        self.task, self.schedule, self.pool = task, schedule, pool
        self.network = build_network(task.architecture)
        if start is not None:
            self.network.load_state_dict(start.weights)
        self.average = {k: v.clone() for k, v in (start.average if start else self.network.state_dict()).items()}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), schedule.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)
        if start is not None and start.optimiser:
            self.optimiser.load_state_dict(start.optimiser)
        self.forward: Callable[[Tensor], Any] = torch.compile(self.network, dynamic=False) if schedule.compiled else self.network
        self.step, self.seconds_before = (start.step, start.seconds) if start else (0, 0.0)
        self.run_steps = 0
        self.files = random.Random(schedule.seed + self.step)
        self.generator = torch.Generator().manual_seed(schedule.seed + self.step)

    def train_step(self, progress: float) -> float:
        """Take one optimiser step on the task's number of pooled samples and return its loss."""
        image, label = self._draw()
        image = image.contiguous(memory_format=torch.channels_last_3d)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.run_steps, progress)
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.forward(image)
        loss = segmentation_loss(outputs, label)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {self.step}: resume from the last checkpoint")
        self.optimiser.step()
        self.step += 1
        self.run_steps += 1
        self._update_average()
        return value

    def _draw(self) -> tuple[Tensor, Tensor]:
        paths = self.pool.paths()
        drawn = [
            vary(*read_sample(self.files.choice(paths)), self.task, self.generator, self.schedule.crop_share)
            for _ in range(self.task.samples_per_step)
        ]
        # Slices of several subjects lie one after the other along the axis that a 2D network takes apart.
        axis = 2 + PLANES[self.task.architecture.plane] if self.task.architecture.plane else 0
        return torch.cat([image for image, _ in drawn], dim=axis), torch.cat([label for _, label in drawn], dim=axis)

    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def checkpoint(self, seconds: float) -> Checkpoint:
        """Return the state to resume from."""
        weights = {k: v.clone() for k, v in self.network.state_dict().items()}
        return Checkpoint(
            self.task.architecture,
            weights,
            dict(self.average),
            self.optimiser.state_dict(),
            self.step,
            self.seconds_before + seconds,
        )


def run_training(
    task: Task, schedule: Schedule, folder: Path, validation: list[Path], start: Checkpoint | None, report: Callable[[str], None] = print
) -> Checkpoint:
    """Train in `folder` until the schedule ends; return the last checkpoint, which is also `folder/last.pt`.

    A run that was interrupted resumes from `folder/last.pt` when there is one; `start` is used otherwise.
    """
    last = folder / "last.pt"
    if last.exists():
        start = load_checkpoint(last, task.architecture)
    trainer = Trainer(task, schedule, Pool(folder / "pool"), start)
    _wait_for_samples(trainer.pool)
    began = saved = checked = noted = time.monotonic()
    losses: list[float] = []
    while True:
        elapsed = time.monotonic() - began
        progress = max(elapsed / (60 * schedule.minutes), trainer.run_steps / schedule.steps)
        finished = progress >= 1.0
        if finished or time.monotonic() - saved > schedule.save_every_s:
            trainer.checkpoint(elapsed).save(last)
            saved = time.monotonic()
        if finished or time.monotonic() - checked > schedule.validate_every_s:
            _check(trainer, folder, validation, elapsed, losses, report)
            losses, checked = [], time.monotonic()
        if finished:
            return trainer.checkpoint(elapsed)
        losses.append(trainer.train_step(progress))
        if trainer.run_steps % 20 == 0:
            trainer.pool.note_consumed(trainer.run_steps)
        if time.monotonic() - noted > 30 and losses:
            recent = sum(losses[-100:]) / len(losses[-100:])
            report(f"step {trainer.step}  {trainer.run_steps / max(elapsed, 1e-9):.2f}/s  loss {recent:.3f}")
            noted = time.monotonic()


def _wait_for_samples(pool: Pool, enough: int = 8, patience_s: float = 600.0) -> None:
    waited = 0.0
    while len(pool.paths()) < enough:
        if waited > patience_s:
            raise TimeoutError(f"no samples in {pool.folder.name} after {patience_s:.0f} s: is a generator running?")
        time.sleep(0.5)
        waited += 0.5


def _check(
    trainer: Trainer, folder: Path, validation: list[Path], elapsed: float, losses: list[float], report: Callable[[str], None]
) -> None:
    average = trainer.checkpoint(elapsed).averaged_network()
    scores = validate_network(average, validation, list(trainer.task.combinations))
    row = {"step": trainer.step, "minutes": (trainer.seconds_before + elapsed) / 60, "loss": sum(losses) / max(len(losses), 1), **scores}
    append_curve(folder / "curve.csv", row)
    draw_curves(folder / "curve.csv", folder / "curve.png")
    report("validation " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))
