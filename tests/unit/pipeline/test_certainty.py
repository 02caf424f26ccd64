"""The certainty of a lesion: calibrated as the manifest says, bounded and monotone, and nothing but words."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundles.bundle import Bundle
from pipeline.errors import BundleError
from pipeline.measure.lesion import measure_lesions
from pipeline.measure.midplane import MidPlane
from pipeline.plan import Recipe, make_plan
from pipeline.records import Calibration, Volume
from pipeline.segmenters.families import load_bundle
from tests.factories.onnx import known_brain_bundle, lesion_manifest, threshold_graph, write_bundle

KEY: dict[str, Any] = {
    "images": ["t1+flair", "flair"],
    "slope": 0.937,
    "volume_slope": 0.384,
    "intercept": -1.419,
    "findings": 309,
    "people": 89,
    "fitted_on": "FLAIR slices of people with an acute stroke",
}
FITTED = Calibration(0.937, 0.384, -1.419, 309, 89, "a test")


def read(models: Path, **changes: Any) -> Bundle:
    manifest = lesion_manifest(**{"input__patch": [4, 4, 4], **changes})
    return load_bundle(write_bundle(models, threshold_graph([0.0, 1.0], 1.0, [4, 4, 4]), manifest))


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.001, 100),
    st.floats(0, 100),
    st.floats(-100, 100),
    st.lists(st.floats(0, 1), min_size=2, max_size=5).map(sorted),
    st.lists(st.floats(0, 3000), min_size=2, max_size=5).map(sorted),
)
def test_any_calibration_is_bounded_and_rises_with_probability_and_volume(
    slope: float, volume_slope: float, intercept: float, means: list[float], volumes_ml: list[float]
) -> None:
    calibration = Calibration(slope, volume_slope, intercept, 100, 50, "a test")

    by_mean = [calibration.chance(mean, volumes_ml[0]) for mean in means]
    by_volume = [calibration.chance(means[0], volume_ml) for volume_ml in volumes_ml]

    assert by_mean == sorted(by_mean)
    assert by_volume == sorted(by_volume)
    assert all(0 <= chance <= 1 for chance in (*by_mean, *by_volume))


def test_the_chance_is_the_logistic_of_log_odds_and_log_volume() -> None:
    # By hand: 0.8 has odds of 4, and e ml a logarithm of 1.
    odds = 4**0.937 * math.exp(0.384) * math.exp(-1.419)

    assert FITTED.chance(0.8, math.e) == pytest.approx(odds / (1 + odds), rel=1e-9)
    assert Calibration(1.0, 0.0, 0.0, 9, 9, "none").chance(0.3, 7.0) == pytest.approx(0.3)


def test_a_calibration_changes_the_certainty_and_nothing_else() -> None:
    labels = np.zeros((8, 12, 12), np.uint16)
    labels[1:4, 2:9, 2:9] = 1
    labels[6, 5, 5:8] = 2
    probability = np.where(labels == 1, 0.9, 0.6).astype(np.float32)
    grid = Volume(labels, np.diag([2.0, 2.0, 2.0, 1.0]), "frame")
    plane = MidPlane(np.array([1.0, 0.0, 0.0]), 0.0, 1.0, estimated=True)

    plain, calibrated = (
        measure_lesions(grid, probability, {}, plane, calibration=calibration)
        for calibration in (None, FITTED)
    )

    for before, after in zip(plain, calibrated, strict=True):
        volume_ml = before.voxel_count * 0.008
        assert before.certainty == pytest.approx(before.mean_probability)
        assert after.certainty == pytest.approx(FITTED.chance(before.mean_probability, volume_ml))
        assert before.measurements[:-1] == after.measurements[:-1]
        assert replace(before, measurements=()) == replace(after, measurements=())
    assert plain[1].certainty > calibrated[1].certainty, "a small and faint finding is seldom right"


def test_a_calibration_holds_for_its_images_and_cuts_alone(tmp_path: Path) -> None:
    plain = Recipe(read(tmp_path / "plain"), known_brain_bundle(tmp_path))
    recipe = replace(plain, lesion=read(tmp_path / "calibrated", output__calibration=KEY))

    plan = make_plan(recipe, ["flair"])

    assert plan.calibration is not None
    assert (plan.calibration.slope, plan.calibration.people) == (0.937, 89)
    assert make_plan(recipe, ["t1", "flair"]).calibration == plan.calibration
    assert make_plan(recipe, ["t1"]).calibration is None
    assert make_plan(plain, ["flair"]).calibration is None
    assert make_plan(plain, ["flair"]).digest() != plan.digest()
    # Lesions that a setting cuts elsewhere are others than those of the fit.
    rule = plan.rule
    assert make_plan(replace(recipe, threshold=rule.threshold), ["flair"]).calibration == plan.calibration
    for setting in ({"threshold": 0.31}, {"peak": 0.99}, {"minimum_volume_mm3": 1.0}):
        assert make_plan(replace(recipe, **setting), ["flair"]).calibration is None


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"slope": 0.0}, "slope", "must lie above 0"),
        ({"slope": -1.5}, "slope", "between 0 and 100, got -1.5"),
        ({"slope": math.nan}, "slope", "between 0 and 100, got nan"),
        ({"slope": "1.5"}, "slope", "must be int or float"),
        ({"slope": None}, "slope", "is missing"),
        ({"volume_slope": -0.1}, "volume_slope", "between 0 and 100"),
        ({"intercept": math.inf}, "intercept", "got inf"),
        ({"intercept": None}, "intercept", "is missing"),
        ({"findings": 0}, "findings", "at least one finding"),
        ({"people": 2.5}, "people", "must be int"),
        ({"fitted_on": " "}, "fitted_on", "is empty"),
        ({"images": ["t2"]}, "images", "needs combinations out of ['t1+flair', 't1', 'flair'], got ['t2']"),
        ({"images": []}, "images", "different names"),
        ({"slopes": 1.0}, "slopes", "is not known; was slope meant?"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused_by_its_key(
    changes: dict[str, Any], key: str, reason: str, tmp_path: Path
) -> None:
    table = {name: value for name, value in {**KEY, **changes}.items() if value is not None}

    with pytest.raises(BundleError) as caught:
        read(tmp_path, output__calibration=table)

    assert caught.value.code == "model-manifest-invalid"
    assert f": output.calibration.{key}: " in str(caught.value)
    assert reason in str(caught.value)
