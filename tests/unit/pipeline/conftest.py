"""Bundles of known answer, a head and what the pipeline answers on it: made once, and not to be written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import SimpleITK

from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Volume
from pipeline.run import run_pipeline
from tests.factories.onnx import known_brain_bundle, known_lesion_bundle
from tests.factories.volumes import AXIAL, draw_head, grid_affine


@pytest.fixture(scope="session")
def known_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    known_lesion_bundle(folder)
    known_brain_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(known_models: Path) -> Recipe:
    from pipeline.segmenters.families import find_bundle

    return Recipe(
        find_bundle(known_models, "known-lesion"),
        find_bundle(known_models, "known-brain"),
        bias_correction=False,
        require_head=False,
    )


@pytest.fixture(scope="session")
def flair() -> Volume:
    """The head with its two lesions, on as few voxels as show them."""
    shape = (34, 66, 54)
    volume = draw_head(shape, grid_affine(shape, (4.4, 2.8, 2.8), directions=AXIAL))
    volume.array.setflags(write=False)
    return volume


@pytest.fixture(scope="session")
def plain_result(flair: Volume, recipe: Recipe) -> PipelineResult:
    """What the network of known answer finds in that head."""
    result = run_pipeline({"flair": flair}, recipe)
    for volume in (result.labels, result.probability, result.brain_mask):
        volume.array.setflags(write=False)
    return result


@pytest.fixture
def count_threads() -> Iterator[Callable[[int], None]]:
    """Give SimpleITK as many threads as a machine with so many cores would."""
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
