"""How the three planes train: their networks, how long, how fast, and what a step is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.training.network import PLANES, Architecture

SHAPES = {"axial": (192, 160), "coronal": (160, 160), "sagittal": (160, 192)}
"""Rows and columns of a plane's slices in a volume of `FINE_GRID`."""
WARM_UP_STEPS = 60
FINAL_SHARE = 0.02
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
    shared
        The planes share their convolutions and keep their own normalisations.
    device
        Where the networks are trained: "cpu", "cuda", "cuda:1", or "auto". Slices are drawn on the CPU.
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
    shared: bool = False
    learning_rate: float = 2e-3
    check_every_s: float = 300.0
    seed: int = 0
    steps: int = 100_000_000
    widths: tuple[int, ...] = WIDTHS
    planes: tuple[str, ...] = tuple(PLANES)
    device: str = "cpu"

    @property
    def curve(self) -> str:
        """Name of the file of scores: each process has its own."""
        return "curve.csv" if len(self.planes) == len(PLANES) else f"curve-{'-'.join(self.planes)}.csv"

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate: linear warm-up, then a cosine over the run's progress (0..1)."""
        fall = FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.learning_rate * fall * min(1.0, (step + 1) / WARM_UP_STEPS)
