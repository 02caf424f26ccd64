"""The processes that make samples while a trainer uses them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.training.pool import Pool, fill_pool
from pipeline.training.problem import TrainingProblem
from pipeline.training.tasks import Task


@contextmanager
def run_generators(
    pool: Pool, task: Task, first_seed: int, maps: Sequence[Path], count: int
) -> Iterator[Callable[[], None]]:
    """Fill the pool by `count` processes until the block ends.

    Yields
    ------
    Callable
        Raises `TrainingProblem` when one of the processes has failed.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=fill_pool,
            args=(pool, task, first_seed + number, maps),
            kwargs={"stride": count},
            daemon=True,
        )
        for number in range(count)
    ]

    def check() -> None:
        failures = [process.exitcode for process in processes if process.exitcode]
        if failures:
            raise TrainingProblem(
                f"a generator process ended with status {failures[0]}; what it said stands above"
            )

    for process in processes:
        process.start()
    try:
        yield check
    finally:
        for process in processes:
            process.terminate()
