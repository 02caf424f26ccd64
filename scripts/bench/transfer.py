"""Compare transfer with training from scratch (Meddahi et al.).

    python -m scripts.bench.transfer --pool DIR --held DIR --out FOLDER

A network of one channel (`--start`) is trained for N steps; `add_channel` makes it one of T1 and FLAIR, which
is trained for M steps at half the learning rate. Beside it, from scratch and with both channels from the
beginning: M steps, and N + M steps. Same architecture (4 mm, that of `proposal-coarse`), same samples, same
schedule; scored on the same held-out heads. Prints a table with the mean difference of Dice, paired by head
and seed, and its 95 % interval from a bootstrap over heads. Stop it and run it again: finished arms are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.training.checkpoint import Checkpoint, load_checkpoint
from pipeline.training.families.table import TASKS
from pipeline.training.pool import Pool, read_sample
from pipeline.training.synthesis.subject import Case
from pipeline.training.tasks import Task
from pipeline.training.train import Schedule, Watch, run_training
from pipeline.training.transfer import add_channel
from pipeline.training.validate import THRESHOLDS, dice_score, predict

BASE = TASKS["proposal-coarse"]
ROLES = BASE.architecture.channels
RATE = 2e-3


def make_task(channels: tuple[str, ...]) -> Task:
    """Return the task of a network that always sees all of its channels."""
    return replace(
        BASE,
        architecture=replace(BASE.architecture, channels=channels),
        combinations={"+".join(channels): 1.0},
    )


@dataclass(frozen=True)
class Data:
    """Folder of the samples that are trained on, and the held-out samples, of one set of channels."""

    samples: Path
    held: list[Path]


Scores = dict[str, list[float]]
"""Threshold (as text) to the Dice of each held-out head."""


def take(source: Path, folder: Path, channels: tuple[str, ...], count: int) -> list[Path]:
    """Copy up to `count` samples with these channels in this order, once; return the copies."""
    pool = Pool(folder, capacity=1_000_000)
    if not (folder / "complete").exists():
        for number, path in enumerate(sorted(source.glob("sample-*.npz"))[:count]):
            image, label = read_sample(path)
            pool.write(number, Case(image[[ROLES.index(role) for role in channels]], label > 0.5, ()))
        (folder / "complete").touch()
    return pool.paths()


def train(
    task: Task,
    folder: Path,
    data: Data,
    steps: int,
    seed: int,
    start: Checkpoint | None = None,
    rate: float = RATE,
) -> Checkpoint:
    """Train one arm to its end, or return what it ended with."""
    if (folder / "done").exists():
        return load_checkpoint(folder / "last.pt", task.architecture)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pool").unlink(missing_ok=True)
    (folder / "pool").symlink_to(data.samples.resolve())
    schedule = Schedule(
        minutes=1e6, steps=steps, learning_rate=rate, validate_every_s=1e9, crop_share=1.0, seed=seed
    )
    began = time.monotonic()
    ended = run_training(task, schedule, folder, data.held[:1], start, Watch(report=lambda line: None))
    print(f"{folder.name}: {steps} steps in {time.monotonic() - began:.0f} s", flush=True)
    (folder / "done").touch()
    return ended


def score(checkpoint: Checkpoint, paths: Sequence[Path], folder: Path) -> Scores:
    """Return the Dice of the averaged weights on each held-out head, at every threshold."""
    kept = folder / "scores.json"
    if not kept.exists():
        network = checkpoint.averaged_network()
        scores: Scores = {str(level): [] for level in THRESHOLDS}
        for path in paths:
            image, label = read_sample(path)
            truth, probability = (label > 0.5) & (image != 0).any(dim=0), predict(network, image)
            for level in THRESHOLDS:
                scores[str(level)].append(dice_score(probability >= level, truth))
        kept.write_text(json.dumps(scores))
    found: Scores = json.loads(kept.read_text())
    return found


def run_seed(out: Path, channels: tuple[str, str], seed: int, first: int, second: int) -> dict[str, Scores]:
    """Train and score the four arms of one seed; `channels[0]` is there from the beginning."""
    alone, both = make_task(channels[:1]), make_task(channels)
    one, two = (
        Data(out / f"samples-{name}", sorted((out / f"held-{name}").glob("*.npz")))
        for name in ("one", "both")
    )
    base, name = out / f"seed{seed}", channels[0]
    source = train(alone, base / "one", one, first, seed)
    moved = train(
        both, base / "transfer", two, second, seed, add_channel(source, channels[1]).started_anew(), RATE / 2
    )
    arms = {
        f"{name} alone, {first} steps": score(source, one.held, base / "one"),
        f"transfer: {name} {first} + both {second}": score(moved, two.held, base / "transfer"),
    }
    for steps, part in ((second, "scratch-short"), (first + second, "scratch-long")):
        arms[f"scratch: both {steps}"] = score(
            train(both, base / part, two, steps, seed), two.held, base / part
        )
    return arms


def interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of (seed, head) differences and its 95 % interval.

    For the interval heads are drawn again 5,000 times.
    """
    by_head = differences.mean(axis=0)
    draws = np.random.default_rng(seed).integers(len(by_head), size=(5000, len(by_head)))
    low, high = np.percentile(by_head[draws].mean(axis=1), (2.5, 97.5))
    return float(by_head.mean()), float(low), float(high)


def table(runs: Mapping[int, dict[str, Scores]]) -> str:
    """Return the arms as Markdown; the threshold is the best of each arm, the same for all seeds."""
    names = list(next(iter(runs.values())))
    stacks = {
        name: {level: np.array([run[name][level] for run in runs.values()]) for level in map(str, THRESHOLDS)}
        for name in names
    }
    best = {
        name: max(levels, key=lambda level: float(levels[level].mean())) for name, levels in stacks.items()
    }
    lines = [
        f"| network | Dice, threshold 0.5 | by seed ({', '.join(map(str, runs))}) | at its best threshold |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        half, top = stacks[name]["0.5"], stacks[name][best[name]]
        each = " / ".join(f"{value:.3f}" for value in half.mean(axis=1))
        lines.append(f"| {name} | {half.mean():.3f} | {each} | {top.mean():.3f} ({best[name]}) |")
    moved = names[1]
    for other in names[2:]:
        for level, label in (("0.5", "threshold 0.5"), (None, "best thresholds")):
            mean, low, high = interval(
                stacks[moved][level or best[moved]] - stacks[other][level or best[other]]
            )
            lines.append(
                f"\nTransfer minus {other}, {label}: {mean:+.3f} (95 % interval over heads {low:+.3f} to "
                f"{high:+.3f})."
            )
    return "\n".join(lines)


def main() -> None:
    """Train all arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--pool", type=Path, required=True, help="folder of training samples of the task `lesion`"
    )
    parser.add_argument("--held", type=Path, required=True, help="folder of held-out samples")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", choices=ROLES, default="flair", help="the channel that is there from the beginning"
    )
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--first", type=int, default=900, help="steps with one channel")
    parser.add_argument("--second", type=int, default=300, help="steps after the second channel came")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    channels = (options.start, *(role for role in ROLES if role != options.start))
    for (name, source), (part, roles) in itertools.product(
        (("samples", options.pool), ("held", options.held)), (("one", channels[:1]), ("both", channels))
    ):
        take(source, options.out / f"{name}-{part}", roles, options.samples)
    runs = {}
    for seed in options.seeds:
        runs[seed] = run_seed(options.out, channels, seed, options.first, options.second)
        print(table(runs), flush=True)


if __name__ == "__main__":
    main()
