"""No measurement is lost: each that the pipeline can make has a row, and one without a row stops the answer by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomnode.errors import ResultRejected
from dicomnode.results.build import build_answer
from dicomnode.results.words.lesion_table import COLUMN_WORDS, COLUMNS, lesion_row
from dicomnode.results.words.measured import MEASURED, relative_signals, reported, row_of
from pipeline.measure.volume import measure_lesion_count, measure_lesion_load, measure_volume
from pipeline.records import Measurement
from tests.factories.results import answered_study, make_result

ROLES = ("t1", "flair")


def names_in(source: str) -> Iterator[str]:
    """Give the name of every measurement that a file makes: first argument of `Measurement(...)`, or the name given to `measure_volume`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "measure_volume":
            yield from (
                str(default.value) for default in node.args.defaults if isinstance(default, ast.Constant)
            )
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        position = {"Measurement": 0, "measure_volume": 2}.get(node.func.id)
        if position is None or len(node.args) <= position:
            continue
        name = node.args[position]
        if isinstance(name, ast.Constant):
            yield str(name.value)
        elif isinstance(name, ast.JoinedStr):
            text = "".join(
                str(piece.value) if isinstance(piece, ast.Constant) else "{role}" for piece in name.values
            )
            yield from (text.format(role=role) for role in ROLES)


def test_every_measurement_of_the_pipeline_has_a_row(repo_root: Path) -> None:
    files = [repo_root / "pipeline" / "run.py", *sorted((repo_root / "pipeline" / "measure").glob("*.py"))]
    names = {name for path in files for name in names_in(path.read_text(encoding="utf-8"))}

    assert {"volume", "total_volume", "lesion_count", "mirrored_intensity_t1", "certainty"} <= names
    assert names <= set(MEASURED)


def test_a_measurement_without_a_row_is_an_error_by_its_name(tmp_path: Path) -> None:
    study = answered_study(
        tmp_path, roles=("flair",), flair={"shape": (16, 48, 40), "spacing_mm": (12.0, 4.0, 5.0)}
    )
    new = Measurement("sphericity", 0.5, "1", "")
    lesion = study.result.lesions[0]
    of_lesion = replace(
        study.result,
        lesions=(replace(lesion, measurements=(*lesion.measurements, new)), *study.result.lesions[1:]),
    )
    of_all = replace(study.result, measurements=(*study.result.measurements, new))
    nothing = make_result(np.zeros_like(study.result.labels.array), study.volume)

    for result in (of_lesion, of_all, replace(nothing, measurements=(*nothing.measurements, new))):
        with pytest.raises(ResultRejected, match="'sphericity' has no row"):
            build_answer(study.context, study.volume, result, ())
    with pytest.raises(ResultRejected, match="'sphericity' has no row"):
        lesion_row(of_lesion.lesions[0])


def test_units_are_those_that_the_pipeline_measures_in() -> None:
    measured = [
        measure_volume(1, 1.0),
        measure_volume(1, 1.0, "total_volume"),
        measure_lesion_count(1),
        measure_lesion_load(1, 2),
    ]

    assert [row_of(item.name).unit.value for item in measured] == [item.unit for item in measured]


def test_every_column_is_described() -> None:
    assert set(COLUMN_WORDS) == set(COLUMNS) - {"label"}


def test_intensities_are_reported_relative_to_the_other_side() -> None:
    measured = [
        Measurement("volume", 1, "ml", ""),
        Measurement("mean_intensity_flair", 700, "1", ""),
        Measurement("mirrored_intensity_flair", 500, "1", ""),
        Measurement("mean_intensity_t1", 300, "1", ""),
        Measurement("mirrored_intensity_t1", 0, "1", ""),
    ]

    assert relative_signals(measured) == {"flair": 1.4}
    assert [(item.name, item.value) for item in reported(measured)] == [
        ("volume", 1),
        ("relative_signal_flair", 1.4),
    ]
