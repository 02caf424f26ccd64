"""The whole line: what is recorded, what is remarked, what is refused and by which name."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import (
    BrainExtractionError,
    BundleError,
    GeometryError,
    ImageError,
    PipelineError,
    RegistrationError,
)
from pipeline.geometry import apply_affine, same_grid
from pipeline.journal import Journal
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.case import Case
from pipeline.segmenters.families import load_bundle
from tests.factories.onnx import known_lesion_bundle, lesion_manifest, nan_graph, write_bundle
from tests.factories.steps import logged
from tests.factories.volumes import AXIAL, FRAME, LEFT_BALL, SAGITTAL, Ball, draw_head, grid_affine

SHAPE, SPACING = (34, 66, 54), (4.4, 2.8, 2.8)
STEPS = [
    "check_inputs", "reorient", "extract_brain", "register", "judge_head", "resample", "correct_bias", "normalise", "infer", "to_source_grid",
    "find_lesions", "judge_quality", "measure",
]  # fmt: skip


@pytest.fixture(scope="module")
def t1() -> Volume:
    return draw_head(
        (70, 64, 80), grid_affine((70, 64, 80), (2.2, 2.3, 2.3), directions=SAGITTAL), contrast="t1"
    )


def test_every_step_is_recorded_with_its_time(flair: Volume, recipe: Recipe) -> None:
    said: list[str] = []

    result = run_pipeline({"flair": flair}, dataclasses.replace(recipe, bias_correction=True), said.append)

    assert [step.name for step in result.steps] == STEPS
    assert said == [name.replace("_", " ") for name in STEPS]
    assert all(step.seconds >= 0 for step in result.steps)
    json.dumps([dict(step.parameters) for step in result.steps])
    assert logged(result, "correct_bias")["flair_strength"] > 1
    assert [model.name for model in result.models] == ["known-lesion", "known-brain"]
    assert pickle.loads(pickle.dumps(result)).threshold == result.threshold


def test_the_table_and_the_label_map_agree(plain_result: PipelineResult) -> None:
    result = plain_result

    totals = {each.name: each.value for each in result.measurements}
    voxel_ml = np.prod(SPACING) / 1000
    assert totals["lesion_count"] == len(result.lesions) == result.labels.array.max() == 2
    assert totals["total_volume"] == pytest.approx(np.count_nonzero(result.labels.array) * voxel_ml)
    assert totals["brain_volume"] == pytest.approx(result.brain_mask.array.sum() * voxel_ml)
    assert totals["lesion_load"] == pytest.approx(100 * totals["total_volume"] / totals["brain_volume"])
    assert (result.probability.array[result.labels.array > 0] >= result.threshold).all()
    assert (result.brain_mask.array[result.labels.array > 0] == 1).all()
    assert (result.labels.array.dtype, result.probability.array.dtype, result.brain_mask.array.dtype) == (
        np.uint16,
        np.float32,
        np.uint8,
    )


@pytest.mark.slow
def test_the_same_input_gives_the_same_bits(flair: Volume, t1: Volume, recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, bias_correction=True, threads=2)

    first, second = (run_pipeline({"t1": t1, "flair": flair}, recipe) for _ in range(2))

    assert np.array_equal(first.probability.array, second.probability.array)
    assert first.lesions == second.lesions


def test_a_healthy_head_is_an_answer_too(recipe: Recipe) -> None:
    image = draw_head(SHAPE, grid_affine(SHAPE, SPACING, directions=AXIAL), lesions=())

    result = run_pipeline({"flair": image}, recipe)

    assert result.lesions == ()
    assert not result.labels.array.any()
    assert {each.name: each.value for each in result.measurements}["total_volume"] == 0


def test_the_operator_s_threshold_and_minimum_are_obeyed(
    flair: Volume, recipe: Recipe, plain_result: PipelineResult
) -> None:
    strict = run_pipeline(
        {"flair": flair}, dataclasses.replace(recipe, threshold=0.85, minimum_volume_mm3=4000.0)
    )

    assert strict.threshold == 0.85
    assert len(strict.lesions) == 1
    assert strict.lesions[0].voxel_count < plain_result.lesions[0].voxel_count
    assert logged(strict, "find_lesions")["dropped"] == 1


def test_the_threshold_of_the_channel_combination_is_taken(
    flair: Volume, recipe: Recipe, tmp_path: Path
) -> None:
    bundle = known_lesion_bundle(tmp_path, output__thresholds={"flair": 0.3, "t1+flair": 0.7})

    assert run_pipeline({"flair": flair}, dataclasses.replace(recipe, lesion=bundle)).threshold == 0.3


def two_balls(case: Case, journal: Journal) -> Volume:
    """Answer 0.95 in one ball and 0.6 in the other, apart from each other in the brain."""
    centres_mm = apply_affine(case.reference.affine, np.moveaxis(np.indices(case.reference.shape), 0, -1))
    middle = np.array(case.brain.mask.affine @ [*(np.array(case.brain.mask.array.shape) / 2), 1])[:3]
    probability = np.zeros(case.reference.shape, np.float32)
    for shift_mm, level in ((-30.0, 0.95), (30.0, 0.6)):
        probability[np.linalg.norm(centres_mm - middle - [shift_mm, 0, 0], axis=-1) < 9] = level
    return case.reference.fill(probability)


def test_a_lesion_that_the_network_is_nowhere_sure_of_is_dropped_from_the_mask_only(
    flair: Volume, recipe: Recipe, tmp_path: Path
) -> None:
    bundle = known_lesion_bundle(tmp_path, output__peaks={"flair": 0.9, "t1+flair": 0.5})
    with_peak = dataclasses.replace(recipe, lesion=bundle)

    dropped = run_pipeline({"flair": flair}, with_peak, segmenter=two_balls)
    kept = run_pipeline({"flair": flair}, dataclasses.replace(with_peak, peak=0.0), segmenter=two_balls)
    none = run_pipeline({"flair": flair}, dataclasses.replace(with_peak, peak=0.96), segmenter=two_balls)

    assert [len(result.lesions) for result in (dropped, kept, none)] == [1, 2, 0]
    assert logged(dropped, "drop_faint") == {"peak": 0.9, "dropped": 1}
    assert not logged(kept, "drop_faint")
    assert dropped.probability.array[dropped.labels.array > 0].min() == np.float32(0.95)
    # Whoever looks at the probability still sees what was dropped.
    assert np.array_equal(dropped.probability.array, kept.probability.array)
    assert np.array_equal(dropped.labels.array > 0, kept.probability.array > 0.9)


def test_what_is_missing_is_remarked(t1: Volume, recipe: Recipe, plain_result: PipelineResult) -> None:
    results = {"flair": plain_result, "t1": run_pipeline({"t1": t1}, recipe)}
    codes = {role: {finding.code for finding in result.findings} for role, result in results.items()}

    assert "no-t1" in codes["flair"]
    assert "no-flair" in codes["t1"]


def test_a_network_of_one_channel_leaves_the_other_out(
    flair: Volume, t1: Volume, recipe: Recipe, tmp_path: Path
) -> None:
    bundle = known_lesion_bundle(tmp_path, input__channels=["flair"], input__accepts=[["flair"]])

    result = run_pipeline({"t1": t1, "flair": flair}, dataclasses.replace(recipe, lesion=bundle))

    assert "input-not-used" in {finding.code for finding in result.findings}
    assert len(result.lesions) == 2


def test_a_lesion_at_the_edge_is_remarked(recipe: Recipe) -> None:
    affine = grid_affine(SHAPE, SPACING, directions=AXIAL)
    affine[2, 3] += 24.0
    image = draw_head(SHAPE, affine, lesions=(Ball((30.0, 5.0, -50.0), 12.0),))

    assert "lesion-at-volume-edge" in {
        finding.code for finding in run_pipeline({"flair": image}, recipe).findings
    }


def constant(value: float) -> Volume:
    return Volume(np.full(SHAPE, value, np.float32), grid_affine(SHAPE, SPACING, directions=AXIAL), FRAME)


def sheared() -> Volume:
    affine = grid_affine(SHAPE, SPACING, directions=AXIAL)
    affine[0, 0] += 1.0
    return draw_head(SHAPE, affine)


@pytest.mark.parametrize(
    ("image", "error", "code"),
    [
        (constant(0.0), ImageError, "zero-range"),
        (constant(7.0), ImageError, "zero-range"),
        (
            Volume(-np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), np.eye(4), FRAME),
            ImageError,
            "no-positive-voxels",
        ),
        (
            Volume(np.random.default_rng(0).random(SHAPE), np.diag([12.0, 1, 1, 1]), FRAME),
            GeometryError,
            "spacing-out-of-range",
        ),
        (
            Volume(np.random.default_rng(0).random(SHAPE), np.diag([1, 0.1, 1, 1]), FRAME),
            GeometryError,
            "spacing-out-of-range",
        ),
        (
            Volume(np.random.default_rng(0).random((3, 50, 50)), np.eye(4), FRAME),
            GeometryError,
            "too-few-slices",
        ),
        (sheared(), GeometryError, "axes-not-perpendicular"),
        (
            Volume(np.random.default_rng(0).random((20, 20, 20)), np.eye(4), FRAME),
            BrainExtractionError,
            "brain-implausible",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    image: Volume, error: type[PipelineError], code: str, recipe: Recipe
) -> None:
    with pytest.raises(error) as caught:
        run_pipeline({"flair": image}, recipe)

    assert caught.value.code == code


def test_nothing_and_strangers_are_refused(flair: Volume, recipe: Recipe) -> None:
    with pytest.raises(ImageError) as nothing:
        run_pipeline({}, recipe)
    with pytest.raises(ImageError) as stranger:
        run_pipeline({"dwi": flair}, recipe)  # type: ignore[dict-item]

    assert (nothing.value.code, stranger.value.code) == ("no-usable-series", "role-unknown")


def test_swapped_bundles_are_refused(flair: Volume, recipe: Recipe) -> None:
    with pytest.raises(BundleError) as caught:
        run_pipeline({"flair": flair}, Recipe(recipe.brain, recipe.lesion))

    assert caught.value.code == "model-wrong-task"


def test_a_network_that_answers_nan_is_refused(flair: Volume, recipe: Recipe, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, nan_graph(2, [80, 96, 80]), lesion_manifest()))

    with pytest.raises(BundleError) as caught:
        run_pipeline({"flair": flair}, dataclasses.replace(recipe, lesion=bundle))

    assert caught.value.code == "model-output-not-finite"


def beside() -> Volume:
    """Return a T1 whose headers put the brain beside the FLAIR's: in one frame of reference both cannot be right."""
    affine = grid_affine((70, 64, 80), (2.2, 2.3, 2.3), directions=SAGITTAL, centre_mm=(130.0, 0, 0))
    away = np.eye(4)
    away[0, 3] = -130.0
    return draw_head((70, 64, 80), affine, contrast="t1", patient_to_head=away)


@pytest.mark.slow
def test_a_t1_of_another_place_is_left_out_and_told(flair: Volume, recipe: Recipe, tmp_path: Path) -> None:
    bundle = known_lesion_bundle(tmp_path, output__thresholds={"flair": 0.3, "t1+flair": 0.7})

    result = run_pipeline({"t1": beside(), "flair": flair}, dataclasses.replace(recipe, lesion=bundle))

    (told,) = [finding for finding in result.findings if finding.code.startswith("registration-")]
    assert told.grade == "refuse"
    assert "T1 was not used" in told.message
    assert result.used == ("flair",)
    assert result.threshold == 0.3
    assert len(result.lesions) == 2
    assert not any(each.name.endswith("_t1") for each in result.lesions[0].measurements)


@pytest.mark.slow
def test_a_network_that_needs_both_is_refused_when_one_cannot_be_brought_onto_the_other(
    flair: Volume, recipe: Recipe, tmp_path: Path
) -> None:
    bundle = known_lesion_bundle(tmp_path, input__accepts=[["t1", "flair"]])

    with pytest.raises(RegistrationError):
        run_pipeline({"t1": beside(), "flair": flair}, dataclasses.replace(recipe, lesion=bundle))


@pytest.mark.slow
def test_a_brain_that_one_image_does_not_show_is_taken_from_the_other(flair: Volume, recipe: Recipe) -> None:
    """A T1 with one bright streak has a brain that is dark against it: the extractor sees too little."""
    t1 = draw_head(
        (70, 64, 80),
        grid_affine((70, 64, 80), (2.2, 2.3, 2.3), directions=SAGITTAL),
        contrast="t1",
        lesions=(LEFT_BALL,),
    )
    array = t1.array.copy()
    array[:, -4:, :] = 4000.0

    result = run_pipeline({"t1": t1.with_array(array), "flair": flair}, recipe)

    assert "brain-of-other-image" in {finding.code for finding in result.findings}
    assert len(result.lesions) == 2


@pytest.mark.slow
def test_the_manifest_turns_the_registration_round_and_switches_the_bias_correction(
    flair: Volume, t1: Volume, recipe: Recipe, tmp_path: Path
) -> None:
    bundle = known_lesion_bundle(tmp_path, preprocess__reference="t1", preprocess__bias_correction="none")

    result = run_pipeline(
        {"t1": t1, "flair": flair}, dataclasses.replace(recipe, lesion=bundle, bias_correction=True)
    )

    assert (result.reference_role, result.used) == ("t1", ("t1", "flair"))
    assert same_grid(result.labels, t1)
    assert list(logged(result, "register")) == ["flair"]
    assert not logged(result, "correct_bias")
    left, right = result.lesions
    assert left.centroid_lps_mm == pytest.approx(LEFT_BALL.at_mm, abs=2)
    assert (left.laterality, right.laterality) == ("left", "right")
    alone = run_pipeline({"flair": flair}, dataclasses.replace(recipe, lesion=bundle))
    assert alone.reference_role == "flair"
