"""Bundles of known answer, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK

from pipeline.plan import Recipe
from tests.factories.onnx import known_brain_bundle, known_lesion_bundle


@pytest.fixture(scope="session")
def known_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    known_lesion_bundle(folder)
    known_brain_bundle(folder)
    return folder


@pytest.fixture
def recipe(known_models: Path) -> Recipe:
    from pipeline.segmenters.families import find_bundle

    return Recipe(
        find_bundle(known_models, "known-lesion"),
        find_bundle(known_models, "known-brain"),
        bias_correction=False,
        require_head=False,
    )


@pytest.fixture
def count_threads() -> Iterator[Callable[[int], None]]:
    """Give SimpleITK as many threads as a machine with so many cores would."""
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
