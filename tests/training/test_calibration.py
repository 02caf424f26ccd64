"""Certainty against truth: the error, the calibration, and where findings come from."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from pipeline.records import Calibration
from pipeline.training.calibration import (
    Finding,
    calibration_error,
    describe_bins,
    describe_change,
    describe_error,
    draw_reliability,
    fit_calibration,
    list_findings,
    rate_findings,
    read_findings,
    write_facts,
    write_lines,
)
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from tests.factories.onnx import known_lesion_bundle

FITTED = Calibration(0.937, 0.384, -1.419, 309, 89, 'slices of "people"')


def make_findings(certainty: float, right: int, wrong: int, volume_ml: float = 1.0) -> list[Finding]:
    return [Finding(certainty, volume_ml, n < right) for n in range(right + wrong)]


def draw_findings(count: int, weights: tuple[float, float, float], seed: int) -> list[Finding]:
    """Draw findings that are right as often as a logistic of these weights says."""
    rng = np.random.default_rng(seed)
    means, volumes_ml = rng.uniform(0.5, 0.97, count), np.exp(rng.normal(0.5, 1.8, count))
    slope, volume_slope, intercept = weights
    odds = (means / (1 - means)) ** slope * volumes_ml**volume_slope * np.exp(intercept)
    right = rng.random(count) < odds / (1 + odds)
    return [Finding(*row) for row in zip(means.tolist(), volumes_ml.tolist(), right.tolist(), strict=True)]


def test_the_error_is_the_mean_distance_weighted_by_findings() -> None:
    findings = make_findings(0.95, 3, 1) + make_findings(0.55, 3, 3)

    assert calibration_error(findings) == pytest.approx(0.4 * 0.20 + 0.6 * 0.05)
    assert calibration_error(make_findings(0.5, 1, 1)) == 0.0
    assert np.isnan(calibration_error([]))
    assert "nothing was marked" in describe_error([])
    assert "0.110 on 10 marked lesions" in describe_error(findings)
    assert "| 4 | 0.95 | 0.75 |" in describe_bins(findings)


def test_the_calibration_is_the_one_that_the_findings_were_drawn_from() -> None:
    weights = (0.9, 0.4, -1.4)

    fitted = fit_calibration(draw_findings(20_000, weights, 1), 400, "drawn")

    assert (fitted.slope, fitted.volume_slope, fitted.intercept) == pytest.approx(weights, abs=0.08)
    assert (fitted.findings, fitted.people, fitted.fitted_on) == (20_000, 400, "drawn")
    others = draw_findings(4000, weights, 2)
    assert calibration_error(rate_findings(others, fitted)) < 0.03 < calibration_error(others)
    assert [finding.right for finding in rate_findings(others, fitted)] == [each.right for each in others]
    assert rate_findings(others, None) == others


def test_a_calibration_never_falls_with_the_volume() -> None:
    fitted = fit_calibration(draw_findings(5000, (1.0, -0.6, 0.2), 3), 100, "drawn")

    assert fitted.volume_slope == 0.0
    assert fitted.slope > 0


def test_findings_that_settle_nothing_are_refused() -> None:
    for findings in (make_findings(0.7, 60, 0), make_findings(0.7, 0, 60), make_findings(0.7, 10, 10), []):
        with pytest.raises(TrainingProblem, match="at least 50 findings, right and wrong ones"):
            fit_calibration(findings, 9, "drawn")
    with pytest.raises(TrainingProblem, match="not more often right"):
        fit_calibration(make_findings(0.6, 60, 20) + make_findings(0.9, 20, 60), 9, "drawn")


def test_the_lines_and_the_facts_are_what_a_manifest_takes(tmp_path: Path) -> None:
    images = ["t1+flair", "flair"]
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"cuts": {"common": 0.5}}))

    write_facts(facts, FITTED, images)
    table = tomllib.loads(write_lines(FITTED, images))["output"]["calibration"]

    assert json.loads(facts.read_text())["cuts"] == {"common": 0.5, "calibration": table}
    bundle = known_lesion_bundle(tmp_path, output__calibration=table)
    assert bundle.output.calibration_for(["flair"]) == FITTED
    assert bundle.output.calibration_for(["t1"]) is None
    facts.write_text("[]")
    with pytest.raises(TrainingProblem, match="cannot be read as the facts"):
        write_facts(facts, FITTED, images)


def test_the_tables_show_before_and_after_by_certainty_and_size() -> None:
    findings = make_findings(0.65, 1, 3, 0.2) + make_findings(0.85, 3, 1, 20.0)

    text = describe_change(findings, rate_findings(findings, FITTED))

    assert "Mean probability. Expected calibration error per lesion: 0.250 on 8 marked lesions" in text
    assert "| 0 to 0.3 | 4 | 0.65 | 0.19 | 0.25 |" in text
    assert "| 10 to 30 | 4 | 0.85 | 0.80 | 0.75 |" in text


def test_findings_of_a_slice_are_its_pieces(tmp_path: Path) -> None:
    bundle = known_lesion_bundle(tmp_path)
    probability = np.zeros((40, 40), np.float32)
    probability[5:15, 5:15] = 0.96
    probability[25:35, 25:35] = 0.91
    mask = np.zeros((40, 40), bool)
    mask[5:15, 5:7] = True

    findings = list_findings(
        bundle, [RealSlice("axial", 1, np.ones((40, 40), np.float32), mask)], [probability]
    )

    assert sorted(finding.right for finding in findings) == [False, True]
    assert [finding.certainty for finding in findings if finding.right] == pytest.approx([0.96])
    # 100 mm2 stand for a cube of 10 mm.
    assert [finding.volume_ml for finding in findings] == pytest.approx([1.0, 1.0])


def test_findings_come_back_from_a_table_of_volumes(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(
        "look,roles,network,findings\nacute,flair,n,0.8:2.5:1 0.5:0.1:0\nplain,flair,n,0.7:1:0\nold,t1,n,0.6:1:1\n"
    )

    assert read_findings(table, "n", "flair") == [Finding(0.8, 2.5, True), Finding(0.5, 0.1, False)]
    with pytest.raises(TrainingProblem, match="no lesion that n found on t1\\+flair"):
        read_findings(table, "n", "t1+flair")
    table.write_text("look,roles\n")
    with pytest.raises(TrainingProblem, match="no lesion"):
        read_findings(table, "n", "flair")
    with pytest.raises(TrainingProblem, match="cannot be read"):
        read_findings(tmp_path / "absent.csv", "n", "flair")


def test_the_diagram_is_a_picture(tmp_path: Path) -> None:
    draw_reliability(tmp_path / "d.png", {"a": make_findings(0.8, 3, 2), "b": make_findings(0.4, 1, 2)})

    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
