"""The pages on a ledger in a temporary folder, called in this process; users with cheap hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.factories.pages import Pages, open_pages


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    with open_pages(tmp_path) as opened:
        yield opened


@pytest.fixture
def open_with(tmp_path: Path) -> Iterator[Callable[..., Pages]]:
    """Pages with other settings of [web]."""
    stack = []

    def open_one(**web: object) -> Pages:
        context = open_pages(tmp_path / f"site{len(stack)}", **web)
        stack.append(context)
        return context.__enter__()

    yield open_one
    for context in stack:
        context.__exit__(None, None, None)
