"""Certainty against truth: the error, the temperature, and where findings come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.training.calibration import (
    Finding,
    calibration_error,
    describe_bins,
    describe_error,
    draw_reliability,
    fit_line,
    fit_temperature,
    list_findings,
    move_findings,
    read_findings,
)
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from tests.factories.onnx import known_lesion_bundle


def make_findings(certainty: float, right: int, wrong: int) -> list[Finding]:
    return [Finding(certainty, n < right) for n in range(right + wrong)]


def test_the_error_is_the_mean_distance_weighted_by_findings() -> None:
    findings = make_findings(0.95, 3, 1) + make_findings(0.55, 3, 3)

    assert calibration_error(findings) == pytest.approx(0.4 * 0.20 + 0.6 * 0.05)
    assert calibration_error(make_findings(0.5, 1, 1)) == 0.0
    assert np.isnan(calibration_error([]))
    assert "nothing was marked" in describe_error([])
    assert "0.110 on 10 marked lesions" in describe_error(findings)
    assert "| 4 | 0.95 | 0.75 |" in describe_bins(findings)


def test_a_temperature_softens_certainties_that_are_too_high() -> None:
    findings = make_findings(0.95, 6, 4) + make_findings(0.05, 4, 6)

    temperature = fit_temperature(findings)
    softened = move_findings(findings, 1 / temperature)

    assert temperature == pytest.approx(np.log(0.95 / 0.05) / np.log(0.6 / 0.4), rel=0.03)
    assert calibration_error(softened) < 0.01 < calibration_error(findings)
    assert [finding.right for finding in softened] == [finding.right for finding in findings]
    with pytest.raises(TrainingProblem, match="right and lesions that are wrong"):
        fit_temperature(make_findings(0.7, 3, 0))


def test_a_line_moves_certainties_that_a_temperature_cannot() -> None:
    findings = make_findings(0.65, 25, 75) + make_findings(0.85, 90, 10)

    slope, shift = fit_line(findings)

    assert calibration_error(move_findings(findings, slope, shift)) < 0.01
    assert calibration_error(move_findings(findings, 1 / fit_temperature(findings))) > 0.1
    assert slope > 1
    assert shift < 0


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


def test_findings_come_back_from_a_table_of_volumes(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(
        "look,roles,network,findings\nacute,flair,n,0.8:1 0.5:0\nplain,flair,n,0.7:0\nold,t1,n,0.6:1\n"
    )

    assert read_findings(table, "n", "flair") == [Finding(0.8, True), Finding(0.5, False)]
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
