"""Real heads without a stroke, with lesions painted in, as volumes of the pool.

What surrounds a stroke is then real at every position.

Heads to train on are never measured: `TRAINING_HEADS` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.counts import counted
from pipeline.plan import Recipe
from pipeline.training.implant import PreparedHead, paint_outline, prepare_head
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_cases import RealCase
from pipeline.training.synthesis.fields import Dice
from pipeline.training.synthesis.subject import Case, scale_by_brain_median
from pipeline.training.volume_pool import VolumePool
from pipeline.training.volumes import read_nifti

TRAINING_HEADS = ("patient09-study2", "patient26")
"""People of `real-heads` whose FLAIR may be trained on; all other real heads are only measured."""
UNPAINTED_SHARE = 0.2
FIRST_NUMBER = 900_000
"""Painted volumes stand in the pool under numbers from here on."""


def training_heads(data: Path) -> Iterator[RealCase]:
    """Yield the real heads to train on.

    Whole FLAIR of one person, T1 and FLAIR of another, both with multiple sclerosis.

    Raises
    ------
    TrainingProblem
        The folder does not hold them.
    """
    folder = data / "real-heads" / "ms"
    names = ("patient09_study2_FLAIR.nii.gz", "patient26_FLAIR.nii.gz", "patient26_T1.nii.gz")
    if missing := [name for name in names if not (folder / name).exists()]:
        raise TrainingProblem(f"{folder} lacks {', '.join(missing)}")
    whole, flair, t1 = (read_nifti(folder / name) for name in names)
    yield RealCase(TRAINING_HEADS[0], {"flair": whole}, "flair", {"flair": np.eye(4)}, stroke_free=True)
    yield RealCase(
        TRAINING_HEADS[1],
        {"flair": flair, "t1": t1},
        "flair",
        {"flair": np.eye(4), "t1": np.eye(4)},
        stroke_free=True,
    )


def paint_volumes(
    recipe: Recipe,
    heads: Sequence[RealCase],
    maps: Sequence[Path],
    pool: VolumePool,
    count: int,
    report: Callable[[str], None] = print,
) -> None:
    """Write `count` painted copies of each head into the pool; a fifth stays without a lesion.

    What is there already is left alone.
    """
    for number, case in enumerate(heads):
        head = prepare_head(recipe, case)
        head = replace(head, images={role: image.clamp_min(0.0) for role, image in head.images.items()})
        for copy in range(count):
            seed = FIRST_NUMBER + 1000 * number + copy
            if pool.path_of(seed).exists():
                continue
            pool.write(seed, _paint_case(head, maps, Dice(seed)))
        report(f"{case.name}: {counted(count, 'painted volume')}")


def _paint_case(head: PreparedHead, maps: Sequence[Path], dice: Dice) -> Case:
    label = torch.zeros_like(head.inside)
    images = dict(head.images)
    wanted = 0 if dice.chance(UNPAINTED_SHARE) else 1 + dice.integer(2)
    for _ in range(4 * wanted):
        if wanted == 0:
            break
        painted = paint_outline(head, maps[dice.integer(len(maps))], dice, acute=True)
        if painted is None or bool((label & painted[0]).any()):
            continue
        label |= painted[0]
        images = {role: image + painted[1][role] for role, image in images.items()}
        wanted -= 1
    empty = torch.zeros(head.inside.shape)
    channels = [
        scale_by_brain_median(images[role], head.inside) if role in images else empty
        for role in ("t1", "flair")
    ]
    return Case(torch.stack(channels), label, ())
