"""What an answer says of the series that it used, and of those that it could not use."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicomnode import answer
from dicomnode.answer import StudyTask, solve_study
from dicomnode.records import SourceSeries
from dicomnode.results.records import AnswerContext
from dicomnode.results.verify.gate import read_back
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import write_result
from dicomnode.study.choice import Selection
from dicomnode.volumes.study_images import LoadedStudy
from pipeline.plan import Recipe, make_plan
from pipeline.records import PipelineResult, Role, Volume
from tests.factories.dicom import phantom_study
from tests.factories.onnx import known_brain_bundle, lesion_manifest, threshold_graph, write_bundle
from tests.factories.results import make_result, volume_of, write_source


def test_a_network_that_takes_the_t1_alone_answers_on_the_t1_of_a_study_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One matrix for both, so that a mask on the wrong series would not even fail by its shape.
    grid = {"plane": "axial", "shape": (20, 48, 56), "spacing_mm": (8.0, 4.0, 4.0)}
    phantom = phantom_study(t1=grid, flair=grid)
    volumes: dict[Role, Volume] = {
        role: volume_of(phantom.series[role], phantom.frame_of_reference_uid) for role in ("flair", "t1")
    }
    sources = tuple(
        write_source(role, phantom.series[role].instances, tmp_path / role) for role in ("flair", "t1")
    )
    loaded = LoadedStudy(volumes, sources, (), Selection({}, {}, ()))
    models = tmp_path / "models"
    known_brain_bundle(models)
    manifest = lesion_manifest(input__channels=["t1"], input__accepts=[["t1"]], output__thresholds={})
    write_bundle(models, threshold_graph([1.0], 1.5, manifest["input"]["patch"]), manifest)
    config = parse_config(
        {
            "storage": {"root": str(tmp_path)},
            "pipeline": {"models": str(models), "lesion_model": "known-lesion", "brain_model": "known-brain"},
        }
    )

    def found_on_the_t1(inputs: Mapping[Role, Volume], recipe: Recipe, progress: object) -> PipelineResult:
        assert set(recipe.lesion.choose_channels(inputs)) == {"t1"}
        result = make_result(phantom.series["t1"].truth, inputs["t1"], "t1")
        return replace(result, plan=make_plan(recipe, ["t1"]))

    monkeypatch.setattr(answer, "load_study", lambda *_study: loaded)
    monkeypatch.setattr(answer, "run_pipeline", found_on_the_t1)
    monkeypatch.setattr(answer, "_context", _context_without_instances)

    solved = solve_study(StudyTask(phantom.study_uid, 1, (), config))

    seg = next(read_back(item) for item in solved.encoded if item.kind == "seg")
    assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == [sources[1].SeriesInstanceUID]
    assert [source.role for source in solved.loaded.sources] == ["t1"]


def _context_without_instances(task: StudyTask, sources: tuple[SourceSeries, ...]) -> AnswerContext:
    return AnswerContext(
        task.StudyInstanceUID,
        1,
        sources,
        task.config.results,
        "0",
        1_772_000_000.0,
        sources[0].frames[0].path,
    )


def test_a_sheet_that_cannot_be_drawn_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def draw(*_solved: object) -> bytes:
        goes_on.wait(60)
        raise ValueError("no slice to draw")

    monkeypatch.setattr(answer, "montage_png", draw)
    solved = SimpleNamespace(reference=None, result=None)
    drawing = answer._sheets.submit(
        answer._draw_sheet,
        SpoolLayout(tmp_path),
        "montage.png",
        "sr.dcm",
        solved,  # type: ignore[arg-type]
        "en",
    )
    assert not drawing.done()
    goes_on.set()

    answer._finish_sheet()

    assert drawing.done()
    assert drawing.result() is None
    assert not (tmp_path / "montage.png").exists()


@pytest.mark.parametrize("dropped", ["before", "while it is drawn", "while it is written", "never"])
def test_no_sheet_stays_of_an_answer_that_was_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: str
) -> None:
    """A page of the patient that nothing points to would stay for ever, and its folder with it."""
    result_file = tmp_path / "study" / "sr.dcm"
    result_file.parent.mkdir()
    result_file.write_bytes(b"a report")

    def drop(moment: str) -> None:
        if dropped == moment:
            shutil.rmtree(result_file.parent)

    def draw(*_solved: object) -> bytes:
        drop("while it is drawn")
        return b"a picture"

    def write(layout: SpoolLayout, path: str, content: bytes) -> str:
        digest = write_result(layout, path, content)
        if dropped == "while it is written":
            result_file.unlink()
        return digest

    monkeypatch.setattr(answer, "montage_png", draw)
    monkeypatch.setattr(answer, "write_result", write)
    drop("before")
    solved = SimpleNamespace(reference=None, result=None)

    answer._draw_sheet(SpoolLayout(tmp_path), "study/montage.png", "study/sr.dcm", solved, "en")  # type: ignore[arg-type]

    sheets = [path.read_bytes() for path in tmp_path.rglob("montage.png")]
    assert sheets == ([b"a picture"] if dropped == "never" else [])
    assert result_file.parent.exists() == (dropped in ("never", "while it is written"))
