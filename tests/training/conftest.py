"""Fixtures of the training tests: the anatomy once, small grids, everything marked `train`."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder, so that the plain suite leaves it out."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.train)
            # Minutes on a machine that does other work at the same time.
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def anatomy() -> object:
    """The average brain, built once."""
    from pipeline.training.synthesis.anatomy import load_anatomy

    return load_anatomy()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep to one thread: the networks here are small, and threads that spin on a busy machine cost more than they give."""
    torch.set_num_threads(1)
