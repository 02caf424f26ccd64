"""Answers that are computed while their study waits: taken, dropped without a trace, never computed twice at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.ahead import Ahead
from dicomnode.answer import StudyAnswer, StudyTask
from dicomnode.records import ResultFile
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome

TASK = StudyTask("2.25.1", 1, (), parse_config({}))
LATER = replace(TASK, revision=2)


def answer_into(layout: SpoolLayout, name: str) -> StudyAnswer:
    path = f"results/{name}.dcm"
    (layout.root / path).parent.mkdir(parents=True, exist_ok=True)
    (layout.root / path).write_bytes(b"result")
    (layout.root / f"{path}.png").write_bytes(b"picture")
    file = ResultFile("sr", path, "", "2.25.7", "2.25.8", "2.25.9")
    return StudyAnswer(Outcome.NEGATIVE, name, (file,), {"montage": f"{path}.png"})


def files(layout: SpoolLayout) -> list[str]:
    return sorted(path.name for path in layout.root.rglob("*") if path.is_file())


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    return SpoolLayout(tmp_path)


def test_an_answer_to_the_same_task_is_taken_once(layout: SpoolLayout) -> None:
    ahead = Ahead()
    assert ahead.compute(layout, 1, TASK, lambda _: answer_into(layout, "early"))
    assert not ahead.compute(layout, 1, TASK, lambda _: answer_into(layout, "again"))
    answer = ahead.take(layout, 1, TASK, lambda: None)
    assert answer is not None
    assert answer.reason == "early"
    assert files(layout) == ["early.dcm", "early.dcm.png"]
    assert ahead.take(layout, 1, TASK, lambda: None) is None


def test_an_answer_to_another_task_is_dropped_without_a_trace(layout: SpoolLayout) -> None:
    ahead = Ahead()
    ahead.compute(layout, 1, TASK, lambda _: answer_into(layout, "early"))
    assert ahead.take(layout, 1, LATER, lambda: None) is None
    assert files(layout) == []
    ahead.compute(layout, 1, TASK, lambda _: answer_into(layout, "early"))
    ahead.compute(layout, 1, LATER, lambda _: answer_into(layout, "later"))
    assert files(layout) == ["later.dcm", "later.dcm.png"]
    ahead.forget_ended(layout, {2})
    assert files(layout) == []


def test_what_is_being_computed_is_waited_for_and_not_begun_twice(layout: SpoolLayout) -> None:
    ahead, goes_on = Ahead(), threading.Event()

    def slow(_task: StudyTask) -> StudyAnswer:
        goes_on.wait(10)
        return answer_into(layout, "early")

    ahead.offer({1: "content"})
    thread = threading.Thread(target=ahead.compute, args=(layout, 1, TASK, slow))
    thread.start()
    while ahead.candidates():
        pass
    assert not ahead.compute(layout, 1, LATER, slow)
    threading.Timer(0.2, goes_on.set).start()
    answer = ahead.take(layout, 1, TASK, lambda: None)
    thread.join()
    assert answer is not None


def test_a_study_is_offered_again_only_with_other_content(layout: SpoolLayout) -> None:
    ahead = Ahead()

    def fail(_task: StudyTask) -> StudyAnswer:
        raise RuntimeError

    ahead.offer({1: "content", 2: "content"})
    with pytest.raises(RuntimeError):
        ahead.compute(layout, 1, TASK, fail)
    ahead.compute(layout, 2, TASK, lambda _: answer_into(layout, "early"))
    assert ahead.candidates() == ()
    ahead.offer({1: "content", 2: "more"})
    assert ahead.candidates() == (2,)
    assert ahead.take(layout, 1, TASK, lambda: None) is None
