"""Is this a head? Phantoms are refused with the figures, whatever the seed; the demo's head and what becomes of it is not."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BrainExtractionError, PipelineError
from pipeline.geometry import grid_of
from pipeline.journal import Journal
from pipeline.plan import Recipe, make_plan
from pipeline.preprocess.extract_brain import Brain, find_brain_problem
from pipeline.preprocess.reorient import apply_orientation, plan_orientation
from pipeline.preprocess.resample import sample_linear
from pipeline.preprocess.template import fit_template
from pipeline.quality.head import CONSTANT, SMALLEST_SCORE, HeadFacts, explained_share, find_head_problem
from pipeline.records import Array, Volume
from pipeline.run import _judge_head, extract_brains
from pipeline.segmenters.families import find_bundle
from tests.factories.head import head_volume
from tests.factories.phantoms import HEAD_VARIANTS, PHANTOMS, draw_phantom, vary_head


@pytest.fixture(scope="module")
def shipped(repo_root: Path) -> Recipe:
    models = repo_root / "models"
    return Recipe(
        find_bundle(models, "stroke-lesion-2mm"), find_bundle(models, "brain-extractor-3mm"), threads=2
    )


def find_brain(image: Volume, recipe: Recipe) -> Brain:
    return extract_brains({"flair": image}, recipe, make_plan(recipe, ["flair"]), Journal())["flair"]


def judge(image: Volume, recipe: Recipe) -> None:
    """Do what the pipeline does before it segments: the brain's own limits, then the gate."""
    brain = find_brain(image, recipe)
    problem = find_brain_problem(brain)
    if problem is not None:
        raise problem
    with ThreadPoolExecutor(1) as pool:
        fitting = pool.submit(fit_template, image, brain)
        _judge_head(image, brain, fitting, make_plan(recipe, ["flair"]), Journal())


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param(
            name, seed, marks=() if seed == 101 and name in {"cylinder", "head-mould"} else pytest.mark.slow
        )
        for name in PHANTOMS
        for seed in (101, 102, 103)
    ],
)
def test_a_phantom_is_refused_by_name(name: str, seed: int, shipped: Recipe) -> None:
    with pytest.raises(PipelineError) as refusal:
        judge(draw_phantom(name, seed), shipped)

    assert refusal.value.code in {"not-a-head", "brain-implausible", "brain-in-pieces"}


@pytest.fixture(scope="module")
def head(shipped: Recipe) -> tuple[Volume, Array]:
    array, affine = head_volume("flair")
    volume = Volume(array.astype(np.float32), affine, "1.2.3")
    image = apply_orientation(volume, plan_orientation(volume))
    brain = find_brain(image, shipped)
    return image, sample_linear(brain.soft, grid_of(image)) >= brain.threshold


def test_a_head_passes(head: tuple[Volume, Array], shipped: Recipe) -> None:
    judge(head[0], shipped)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "large-lesion" else pytest.mark.slow) for name in HEAD_VARIANTS],
)
def test_what_happens_to_heads_does_not_refuse_them(
    name: str, head: tuple[Volume, Array], shipped: Recipe
) -> None:
    image = vary_head(name, *head, seed=7)

    judge(apply_orientation(image, plan_orientation(image)), shipped)


def test_no_fact_refuses_alone_and_all_weigh() -> None:
    head = HeadFacts(overlap=0.95, stretch=1.1, anatomy=0.2, detail=0.12)
    poor = {"overlap": 0.91, "stretch": 1.4, "anatomy": 0.02, "detail": 0.06}

    assert find_head_problem(head) is None
    assert all(
        find_head_problem(dataclasses.replace(head, **{name: value})) is None for name, value in poor.items()
    )
    assert all(dataclasses.replace(head, **{name: value}).score < head.score for name, value in poor.items())
    problem = find_head_problem(HeadFacts(**poor))
    assert isinstance(problem, BrainExtractionError)
    assert "overlap with the brain template 0.91" in str(problem)
    assert problem.code == "not-a-head"


def test_a_brain_without_any_detail_is_no_head() -> None:
    assert HeadFacts(1.0, 1.0, 0.0, 0.0).score < SMALLEST_SCORE
    assert CONSTANT < 0


def test_the_explained_share_knows_no_contrast() -> None:
    random = np.random.default_rng(1)
    reference = random.normal(size=5000)

    assert explained_share(-3 * reference, reference) > 0.95
    assert explained_share(np.abs(reference), reference) > 0.9
    assert explained_share(random.normal(size=5000), reference) < 0.02
    assert explained_share(np.ones(5000), reference) == 0.0
