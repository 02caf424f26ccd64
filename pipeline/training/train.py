"""The training loop: draws from the pool, steps, averages, checks and saves.

Stops by the clock or by steps, and goes on where it stopped.
"""

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

from pipeline.counts import counted
from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint, load_checkpoint
from pipeline.training.devices import choose_device, move_to_cpu
from pipeline.training.losses import segmentation_loss
from pipeline.training.network import PLANES
from pipeline.training.pool import Pool, read_sample
from pipeline.training.problem import TrainingProblem
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
        The run ends at whichever comes first, however many pieces it is cut into.
    piece_minutes
        This process stops after so long, with a checkpoint from which the same command goes on; None: not
        before the end.
    validate_every_s, save_every_s
        Seconds between validations and between checkpoints.
    crop_share
        Share of the steps on random crops, where the task has a crop shape.
    batch
        How many times the task's samples make one step; more than 1 on a GPU.
    device
        "cpu", "cuda", "cuda:1", ...
    """

    minutes: float = 60.0
    steps: int = 1_000_000
    piece_minutes: float | None = None
    learning_rate: float = 1.5e-3
    validate_every_s: float = 300.0
    save_every_s: float = 120.0
    crop_share: float = 0.8
    batch: int = 1
    seed: int = 0
    compiled: bool = False
    device: str = "cpu"

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate: linear warm-up, then a cosine over the run's progress (0..1)."""
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.learning_rate * fall * min(1.0, (step + 1) / WARM_UP_STEPS)


@dataclass(frozen=True)
class Watch:
    """Who looks on at a run.

    `report` takes lines, and `advance` the progress (0..1) with a short text. `check` raises when a helper
    process died.
    """

    report: Callable[[str], None] = print
    advance: Callable[[float, str], None] = lambda progress, text: None
    check: Callable[[], None] = lambda: None


class Trainer:
    """One run: the network, its average, its optimiser and its place in the schedule."""

    def __init__(self, task: Task, schedule: Schedule, pool: Pool, start: Checkpoint | None) -> None:
        torch.manual_seed(schedule.seed)
        self.task, self.schedule, self.pool = task, schedule, pool
        self.device = choose_device(schedule.device)
        self.network = build_network(task.architecture).to(self.device)
        if start is not None:
            self.network.load_state_dict(start.weights)
        average = start.average if start else self.network.state_dict()
        self.average = {k: v.clone().to(self.device) for k, v in average.items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), schedule.learning_rate, betas=(0.9, 0.99), weight_decay=1e-2
        )
        if start is not None and start.optimiser:
            self.optimiser.load_state_dict(start.optimiser)
        self.forward: Callable[[Tensor], Any] = (
            torch.compile(self.network, dynamic=False) if schedule.compiled else self.network
        )
        self.step, self.seconds_before = (start.step, start.seconds) if start else (0, 0.0)
        self.run_steps, self.run_seconds_before = (start.run_steps, start.run_seconds) if start else (0, 0.0)
        self.files = random.Random(schedule.seed + self.step)
        self.generator = torch.Generator().manual_seed(schedule.seed + self.step)

    def progress(self, elapsed: float) -> float:
        """Return the run's place in its schedule, 0 to 1 and beyond.

        The place is that of `elapsed` seconds after this process took the run up.
        """
        return max(
            (self.run_seconds_before + elapsed) / (60 * self.schedule.minutes),
            self.run_steps / self.schedule.steps,
        )

    def train_step(self, progress: float) -> float:
        """Take one optimiser step on pooled samples and return its loss.

        Raises
        ------
        TrainingProblem
            The device has not enough memory, or the loss is not finite.
        """
        image, label = self._draw_batch()
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.run_steps, progress)
        self.network.train()
        try:
            with torch.autocast(self.device.type, torch.bfloat16):
                outputs = self.forward(image)
            loss = segmentation_loss(outputs, label)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        except torch.OutOfMemoryError:
            raise TrainingProblem(
                f"{self.device} ran out of memory at step {self.step} "
                f"with {counted(len(image), 'sample')} of {list(image.shape[2:])}: lower --batch, or raise "
                "--crop-share to 1, and run the same command again; it goes on from the last checkpoint"
            ) from None
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingProblem(
                f"the loss is {value} at step {self.step}: run the same command again to go on from "
                "the last checkpoint, with a lower --learning-rate"
            )
        self.optimiser.step()
        self.step += 1
        self.run_steps += 1
        self._update_average()
        return value

    def _draw_batch(self) -> tuple[Tensor, Tensor]:
        """Return images and labels of one step on the device; all of a batch are crops, or all are whole."""
        paths = self.pool.paths()
        crop_share = float(self.files.random() < self.schedule.crop_share)
        count = self.schedule.batch * self.task.samples_per_step
        drawn = [
            vary(*read_sample(self.files.choice(paths)), self.task, self.generator, crop_share)
            for _ in range(count)
        ]
        # Slices of several subjects lie one after the other along the axis that a 2D network takes apart.
        axis = 2 + PLANES[self.task.architecture.plane] if self.task.architecture.plane else 0
        image, label = (
            torch.cat(sample_parts, dim=axis).to(self.device) for sample_parts in zip(*drawn, strict=True)
        )
        return image.contiguous(memory_format=torch.channels_last_3d), label

    def _update_average(self) -> None:
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def checkpoint(self, seconds: float) -> Checkpoint:
        """Return the state to resume from, on the CPU whatever it was trained on."""
        return Checkpoint(
            self.task.architecture,
            move_to_cpu(self.network.state_dict()),
            move_to_cpu(self.average),
            move_to_cpu(self.optimiser.state_dict()),
            self.step,
            self.seconds_before + seconds,
            self.run_steps,
            self.run_seconds_before + seconds,
        )


def run_training(
    task: Task,
    schedule: Schedule,
    folder: Path,
    validation: list[Path],
    start: Checkpoint | None,
    watch: Watch = Watch(),
) -> Checkpoint:
    """Train in `folder` until the schedule or this piece of it ends.

    Return the last checkpoint, which is also `folder/last.pt`.

    A run that was interrupted resumes from `folder/last.pt` when there is one, at its place in the schedule;
    `start` is used otherwise.

    Raises
    ------
    TrainingProblem
        See `Trainer.train_step`; also: no samples come, a checkpoint cannot be read or written.
    """
    last = folder / "last.pt"
    if last.exists():
        start = load_checkpoint(last, task.architecture)
    trainer = Trainer(task, schedule, Pool(folder / "pool"), start)
    if trainer.progress(0.0) >= 1.0:
        watch.report(
            f"this run has ended after {counted(trainer.run_steps, 'step')}; "
            "raise --minutes or --steps to go on with it"
        )
        return trainer.checkpoint(0.0)
    _wait_for_samples(trainer.pool, watch)
    began = time.monotonic()
    try:
        _train(trainer, folder, validation, began, watch)
    except KeyboardInterrupt:
        trainer.checkpoint(time.monotonic() - began).save(last)
        watch.report(
            f"interrupted at step {trainer.step}, which is saved; run the same command again to go on"
        )
        raise
    return trainer.checkpoint(time.monotonic() - began)


def _train(trainer: Trainer, folder: Path, validation: list[Path], began: float, watch: Watch) -> None:
    schedule = trainer.schedule
    saved = checked = reported_at = began
    losses: list[float] = []
    while True:
        now = time.monotonic()
        progress = trainer.progress(now - began)
        finished = progress >= 1.0 or (
            schedule.piece_minutes is not None and now - began > 60 * schedule.piece_minutes
        )
        if finished or now - saved > schedule.save_every_s:
            trainer.checkpoint(now - began).save(folder / "last.pt")
            saved = now
        if finished or now - checked > schedule.validate_every_s:
            _check(trainer, folder, validation, now - began, losses, watch)
            losses, checked = [], time.monotonic()
        if finished:
            return
        losses.append(trainer.train_step(progress))
        if trainer.run_steps % 20 == 0:
            trainer.pool.note_consumed(trainer.run_steps * schedule.batch * trainer.task.samples_per_step)
            watch.check()
        recent = sum(losses[-100:]) / len(losses[-100:])
        watch.advance(min(progress, 1.0), f"step {trainer.step}  loss {recent:.3f}")
        if time.monotonic() - reported_at > 30:
            watch.report(f"step {trainer.step}  {100 * progress:.1f} %  loss {recent:.3f}")
            reported_at = time.monotonic()


def _wait_for_samples(pool: Pool, watch: Watch, enough: int = 8, patience_s: float = 600.0) -> None:
    waited = 0.0
    while len(pool.paths()) < enough:
        watch.check()
        if waited > patience_s:
            raise TrainingProblem(
                f"no samples in {pool.folder} after {patience_s:.0f} s: is a generator running?"
            )
        time.sleep(0.5)
        waited += 0.5


def _check(
    trainer: Trainer, folder: Path, validation: list[Path], elapsed: float, losses: list[float], watch: Watch
) -> None:
    average = trainer.checkpoint(elapsed).averaged_network().to(trainer.device)
    scores = validate_network(average, validation, list(trainer.task.combinations))
    row = {
        "step": trainer.step,
        "minutes": (trainer.seconds_before + elapsed) / 60,
        "loss": sum(losses) / max(len(losses), 1),
        **scores,
    }
    append_curve(folder / "curve.csv", row)
    draw_curves(folder / "curve.csv", folder / "curve.png")
    watch.report("validation " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))
