"""Options of the training commands that take a number.

A value out of range is refused before any work begins.
"""

from __future__ import annotations

import math
from typing import Any

import typer

LARGEST = 1_000_000_000
RUN_SUBJECTS = 1_000_000
"""The subjects of a training run are made from the seeds from `RUN_SUBJECTS` times its own seed on."""
VALIDATION_SEED = 9_000_000
"""Validation subjects are drawn from seeds from here on, training subjects from below."""
LARGEST_RUN_SEED = VALIDATION_SEED // RUN_SUBJECTS - 1


def whole(text: str = "", *, least: int = 1, most: int = LARGEST) -> Any:
    """Return an option for a whole number from `least` to `most`; `text` says what it is for."""
    return typer.Option(help=text, min=least, max=most)


def number(text: str = "", *, least: float = 0.0, most: float = float(LARGEST)) -> Any:
    """Return an option for a number from `least` to `most`; what is no number ("nan") is refused."""
    return typer.Option(help=text, min=least, max=most, callback=_refuse_nan)


def above_zero(text: str = "", *, most: float = float(LARGEST)) -> Any:
    """Return an option for a number above 0."""
    return number(text, least=1e-9, most=most)


def run_seed(text: str = "") -> Any:
    """Return an option for the seed of a training run."""
    return typer.Option(
        help=text or f"0 to {LARGEST_RUN_SEED}: subject n is made from the seed {RUN_SUBJECTS:,} x SEED + n",
        callback=_refuse_run_seed,
    )


def check_subjects(first: int, count: int, stride: int) -> None:
    """Refuse subjects whose seeds reach into those of the validation subjects.

    Raises
    ------
    typer.BadParameter
        The last seed is `VALIDATION_SEED` or higher.
    """
    last = first + (count - 1) * stride
    if last >= VALIDATION_SEED:
        raise typer.BadParameter(
            f"the seeds run from {first:,} to {last:,}; validation subjects have those from "
            f"{VALIDATION_SEED:,} on: choose a smaller --seed, --count or --stride"
        )


def _refuse_nan(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number that can be used")
    return value


def _refuse_run_seed(value: int) -> int:
    if not 0 <= value <= LARGEST_RUN_SEED:
        raise typer.BadParameter(
            f"{value} is not in the range 0 to {LARGEST_RUN_SEED}: subject n of a run is made from the seed "
            f"{RUN_SUBJECTS:,} x SEED + n, and validation subjects have the seeds from {VALIDATION_SEED:,} on"
        )
    return value
