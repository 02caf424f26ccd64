"""Training of the three planes side by side.

Each step takes one plane, half of its slices real, half synthetic from any position.

Any moment to stop gives three networks that were trained alike. Every checkpoint of the averaged weights is
kept with its scores, so that the one to ship is chosen afterwards, on slices and on whole volumes.
"""

from __future__ import annotations

import csv
import itertools
import math
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
from pipeline.training.graft import graft_lesion
from pipeline.training.network import PLANES, Architecture
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.slice_augment import centre_columns, fit_shape, vary_slices
from pipeline.training.volume_pool import VolumePool, open_volume, scale_volume

SHAPES = {"axial": (192, 160), "coronal": (160, 160), "sagittal": (160, 192)}
"""Rows and columns of a plane's slices in a volume of `FINE_GRID`."""
WARM_UP_STEPS = 60
FINAL_SHARE = 0.02
CROSS_ENTROPY_WEIGHT = 3.0
DEEP_WEIGHT = 0.4
EMPTY_WEIGHT = 0.15
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


WIDTHS = (24, 48, 96, 160)


def plane_architecture(plane: str, widths: tuple[int, ...] = WIDTHS, other_side: int = 0) -> Architecture:
    """Return the architecture of one plane's network.

    It is residual, with batch normalisation, on blocks of 2 x 2 pixels. A sagittal slice has no other side.
    """
    return Architecture(
        ("t1", "flair"),
        widths,
        deep_outputs=1,
        pyramid=False,
        plane=plane,
        unshuffle=2,
        other_side=0 if plane == "sagittal" else other_side,
    )


@dataclass(frozen=True)
class PlaneSchedule:
    """How long and how fast the planes train.

    Attributes
    ----------
    minutes
        Length of the whole run, all planes and pieces together.
    piece_minutes
        This process stops after so long with a checkpoint; the same command goes on.
    steps
        The run also ends after so many steps, all planes together.
    widths
        Of the networks' levels.
    planes
        Which ones this process trains, in turn; other processes may train the others in the same folder.
    batch
        Slices of one step.
    real_share
        Share of real slices.
    t1_share
        Share of the synthetic slices that keep their T1; all others have the FLAIR alone.
    lesion_share
        Share of the slices through a lesion, where there is one.
    graft_share
        Share of the real slices that get another person's lesion (`graft`); of the synthetic ones without a
        T1 half as many.
    dropout
        Share of the features that the coarse levels lose while training.
    other_side
        So many of the coarsest levels see the other side.
    """

    minutes: float
    piece_minutes: float | None = None
    batch: int = 8
    real_share: float = 0.5
    t1_share: float = 0.35
    lesion_share: float = 0.7
    graft_share: float = 0.0
    dropout: float = 0.0
    other_side: int = 0
    learning_rate: float = 2e-3
    check_every_s: float = 300.0
    seed: int = 0
    steps: int = 100_000_000
    widths: tuple[int, ...] = WIDTHS
    planes: tuple[str, ...] = tuple(PLANES)

    @property
    def curve(self) -> str:
        """Name of the file of scores: each process has its own."""
        return "curve.csv" if len(self.planes) == len(PLANES) else f"curve-{'-'.join(self.planes)}.csv"

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate: linear warm-up, then a cosine over the run's progress (0..1)."""
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.learning_rate * fall * min(1.0, (step + 1) / WARM_UP_STEPS)


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
        self, plane: str, architecture: Architecture, start: Checkpoint | None, dropout: float = 0.0
    ) -> None:
        self.plane = plane
        self.architecture = architecture
        self.network: Network = build_network(architecture)
        self.network.dropout = dropout
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=1e-3, weight_decay=1e-3)
        self.average = {name: values.clone() for name, values in self.network.state_dict().items()}
        self.step = 0
        if start is not None:
            self.network.load_state_dict(start.weights)
            self.average = {name: values.clone() for name, values in start.average.items()}
            if start.optimiser:
                self.optimiser.load_state_dict(start.optimiser)
            self.step = start.run_steps

    def train_step(self, images: Tensor, masks: Tensor, rate: float) -> float:
        """Take one step on (sample, channel, row, column) and return the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        axis = 2 + PLANES[self.plane]
        with torch.autocast("cpu", dtype=torch.bfloat16):
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
        """Return the state of this plane."""
        weights = {name: values.clone() for name, values in self.network.state_dict().items()}
        return Checkpoint(
            self.architecture,
            weights,
            self.average,
            self.optimiser.state_dict(),
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
        network = build_network(self.architecture)
        network.load_state_dict(self.average)
        network.eval()
        axis = 2 + PLANES[self.plane]
        parts = []
        for batch in images.split(16):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(batch.transpose(0, 1)[None].movedim(2, axis))
            parts.append(logits.float().movedim(axis, 1)[0, :, 0].sigmoid())
        return torch.cat(parts)


class SliceSource:
    """Draws batches of one plane.

    Real slices of people to train on, and slices of the pool's volumes at any position.
    """

    def __init__(
        self, slices: list[RealSlice], pool: VolumePool, schedule: PlaneSchedule, generator: torch.Generator
    ) -> None:
        self.real = {plane: [item for item in slices if item.plane == plane] for plane in PLANES}
        self.with_lesion = {
            plane: [item for item in group if item.mask.any()] for plane, group in self.real.items()
        }
        for plane, group in self.with_lesion.items():
            if schedule.real_share > 0 and not group:
                raise TrainingProblem(f"no {plane} slice of a person to train on shows a lesion")
        self.pool, self.schedule, self.generator = pool, schedule, generator
        self._paths: list[Path] = []
        self._occupied: dict[Path, dict[str, tuple[list[int], list[int]]]] = {}

    def refresh(self) -> int:
        """Look for new volumes; returns how many there are."""
        self._paths = self.pool.paths()
        return len(self._paths)

    def draw(self, plane: str) -> tuple[Tensor, Tensor]:
        """Return images (sample, 2, row, column) and masks (sample, 1, row, column), varied."""
        real = round(self.schedule.batch * self.schedule.real_share)
        drawn = [
            self._draw_real(plane) if index < real else self._draw_synthetic(plane)
            for index in range(self.schedule.batch)
        ]
        images, masks = vary_slices(
            torch.stack([image for image, _ in drawn]),
            torch.stack([mask for _, mask in drawn]),
            self.generator,
        )
        # Networks that compare the two sides see slices as the node cuts them: the image in the middle. The
        # sagittal one is trained on the same kind of slices.
        return centre_columns(images, masks, self.generator) if self.schedule.other_side else (images, masks)

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def _chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < probability

    def _draw_real(self, plane: str) -> tuple[Tensor, Tensor]:
        group = self.with_lesion[plane] if self._chance(self.schedule.lesion_share) else self.real[plane]
        image, mask = self._fit(group[self._integer(len(group))])
        if self._chance(self.schedule.graft_share):
            image, mask = self._graft(plane, image, mask)
        return image, mask

    def _fit(self, item: RealSlice) -> tuple[Tensor, Tensor]:
        """Return (2, row, column) with an empty T1, and (1, row, column), as large as the plane's slices."""
        flair = torch.from_numpy(np.ascontiguousarray(item.image))[None]
        both = torch.cat((torch.zeros_like(flair), flair, torch.from_numpy(item.mask)[None].float()))
        both = fit_shape(both, SHAPES[item.plane], self.generator)
        return both[:2], both[2:]

    def _graft(self, plane: str, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a slice with the lesion of another person to train on, from the same plane."""
        group = self.with_lesion[plane]
        donor, outline = self._fit(group[self._integer(len(group))])
        if plane != "sagittal" and self._chance(0.5):
            donor, outline = donor.flip(-1), outline.flip(-1)
        flair, mask = graft_lesion(image[1], mask[0], donor[1], outline[0], self.generator)
        return torch.stack((image[0], flair)), mask[None]

    def _draw_synthetic(self, plane: str) -> tuple[Tensor, Tensor]:
        path = self._paths[self._integer(len(self._paths))]
        volume = open_volume(path)
        axis = 1 + PLANES[plane]
        if path not in self._occupied:
            self._occupied[path] = _occupied(volume)
        brain, lesion = self._occupied[path][plane]
        numbers = lesion if lesion and self._chance(self.schedule.lesion_share) else brain
        packed = np.ascontiguousarray(np.take(volume, numbers[self._integer(len(numbers))], axis=axis))
        image, mask = torch.from_numpy(scale_volume(packed[:2])), torch.from_numpy(packed[2:]).float()
        if not self._chance(self.schedule.t1_share):
            image[0] = 0.0
            if self._chance(self.schedule.graft_share / 2):
                image, mask = self._graft(plane, image, mask)
        # What the remaining channels do not show cannot be asked for.
        return image, mask * (image > 0).any(dim=0)


def _occupied(volume: np.ndarray) -> dict[str, tuple[list[int], list[int]]]:
    """Return for each plane the numbers of the slices with enough brain, and of those through a lesion."""
    flair, label = volume[1], volume[2]
    result = {}
    for plane, axis in PLANES.items():
        others = tuple(other for other in range(3) if other != axis)
        brain, lesion = (flair > 8).sum(axis=others), label.sum(axis=others)
        result[plane] = (np.flatnonzero(brain > 300).tolist(), np.flatnonzero(lesion > 3).tolist())
    return result


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
        trainers[plane] = PlaneTrainer(plane, architecture, start, schedule.dropout)
        before_s = max(before_s, start.run_seconds if start else 0.0)
    return _Run(folder, trainers, before_s, time.monotonic())


def _append(path: Path, row: dict[str, float]) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({name: f"{value:.4f}" for name, value in row.items()})


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
