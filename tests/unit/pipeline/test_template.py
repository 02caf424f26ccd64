"""MNI coordinates: the template laid out as a head is found again, what is no brain is refused, and a fault fails no study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.errors import BrainExtractionError
from pipeline.geometry import Affine, Grid, apply_affine, axial_affine
from pipeline.journal import Journal
from pipeline.measure.lesion import to_mni
from pipeline.plan import Recipe, make_plan
from pipeline.preprocess import template as room
from pipeline.preprocess.extract_brain import Brain, apply_brain_threshold
from pipeline.preprocess.resample import sample_linear
from pipeline.preprocess.template import TemplateFit, fit_template, load_template
from pipeline.records import Volume
from pipeline.run import _judge_head

GRID = Grid((60, 76, 64), axial_affine((60, 76, 64), (3.0, 3.0, 3.0), np.array([15.0, -40.0, 60.0])), "1.2.3")


def lay_out(
    turn_deg: tuple[float, float], stretch: tuple[float, float, float], shift_mm: tuple[float, float, float]
) -> Affine:
    """Return a 4x4 from a patient's mm to the template's: stretched, turned about z and x, shifted."""
    yaw, nod = np.radians(turn_deg)
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
    link = np.eye(4)
    link[:3, :3] = np.diag(stretch) @ about_z @ about_x
    link[:3, 3] = shift_mm
    return link


def make_head(link: Affine, *, inverted: bool = False) -> tuple[Volume, Brain]:
    """Return the template's brain as a patient's image, with the contrast turned round if asked, and its brain."""
    template = load_template()
    image = sample_linear(template, GRID, link)
    inside = image > 20.0
    shown = np.where(inside, 300.0 - image if inverted else image, 0.0).astype(np.float32)
    return GRID.fill(shown), apply_brain_threshold(GRID.fill(inside.astype(np.float32)), 0.5)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_head_is_found_again_in_the_template(inverted: bool) -> None:
    link = lay_out((9.0, -7.0), (1.12, 0.95, 1.05), (-12.0, 31.0, -66.0))
    image, brain = make_head(link, inverted=inverted)

    fit = fit_template(image, brain)

    points = apply_affine(GRID.affine, np.argwhere(brain.mask.array)[::97])
    apart = np.linalg.norm(apply_affine(fit.link, points) - apply_affine(link, points), axis=1)
    assert fit.problem == ""
    assert apart.mean() < 1.5
    assert apart.max() < 4.0
    assert fit.turn_deg == pytest.approx(9.0, abs=2.5)


@pytest.mark.slow
def test_two_runs_give_the_same_bits_on_any_number_of_cores(count_threads: Callable[[int], None]) -> None:
    image, brain = make_head(lay_out((9.0, -7.0), (1.12, 0.95, 1.05), (-12.0, 31.0, -66.0)))
    links = []

    for count in (2, 2, 1, 4):
        count_threads(count)
        links.append(fit_template(image, brain).link.tobytes())

    assert len(set(links)) == 1


def test_mni_coordinates_run_to_the_right_and_to_the_front() -> None:
    x, y, z = to_mni(np.eye(4), (40.0, 20.0, 10.0))  # 40 mm to the left, 20 to the back, 10 up

    assert (x, y, z) == (-40.0, -20.0, 10.0)


def test_what_is_no_brain_is_not_believed() -> None:
    slices, rows, columns = np.indices(GRID.shape)
    # A rod from front to back.
    inside = (np.abs(slices - 30) < 5) & (np.abs(columns - 32) < 6) & (rows > 3) & (rows < 73)
    image = GRID.fill((inside * (50.0 + slices)).astype(np.float32))

    fit = fit_template(image, apply_brain_threshold(GRID.fill(inside.astype(np.float32)), 0.5))

    assert fit.problem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"overlap": 0.6}, "overlap by 0.60"),
        ({"scales": (1.6, 1.0)}, "stretched"),
        ({"turn_deg": 60.0}, "turned by 60 degrees"),
    ],
)
def test_a_bad_fit_says_why(change: dict[str, object], words: str) -> None:
    good = TemplateFit(np.eye(4), 0.95, (1.1, 1.0), 2.0)

    assert good.problem == ""
    assert words in dataclasses.replace(good, **change).problem


def test_a_failed_registration_is_no_head_and_leaves_no_coordinates(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    image, brain = make_head(lay_out((0.0, 0.0), (1.0, 1.0, 1.0), (-15.0, 40.0, -60.0)))
    journal = Journal(None)

    def fail(*_: object) -> None:
        raise RuntimeError("itk::ERROR: all samples map outside")

    monkeypatch.setattr(room, "_optimise", fail)

    with ThreadPoolExecutor(1) as pool:
        fitting = pool.submit(room.fit_template, image, brain)
    assert _judge_head(image, brain, fitting, make_plan(recipe, ["flair"]), journal) is None
    assert "all samples map outside" in str(journal.steps[-1].parameters["template"])
    strict = dataclasses.replace(recipe, require_head=True)
    with pytest.raises(BrainExtractionError, match="cannot be laid on the brain template") as refusal:
        _judge_head(image, brain, fitting, make_plan(strict, ["flair"]), journal)
    assert refusal.value.code == "not-a-head"
