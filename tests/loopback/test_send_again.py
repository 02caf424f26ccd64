"""A study whose processing failed is tried again when somebody sends it again; one that was answered is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dicomnode import flow
from dicomnode.answer import StudyAnswer
from dicomnode.compute import Compute
from dicomnode.ledger.shown import plain
from dicomnode.states import Outcome
from dicomnode.working import answering
from tests.factories.instances import write_instances
from tests.factories.whole_node import WholeNode, whole_node


class Worker:
    """Computes what it is told to: an answer, or what goes wrong."""

    closed = False
    worker_count = 1

    def __init__(self) -> None:
        self.answers: list[StudyAnswer | Exception] = []

    def run(self, _function: Any, _argument: Any, **_more: Any) -> StudyAnswer:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


NO_LESION = StudyAnswer(Outcome.NEGATIVE, "No lesion found.", ())


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr("tests.factories.whole_node.InlineCompute", lambda: cast("Compute", worker))
    return worker


@pytest.fixture
def node(tmp_path: Path, worker: Worker) -> Iterator[WholeNode]:
    with whole_node(tmp_path, compute={"attempts": 1}) as node:
        yield node


def story(node: WholeNode) -> tuple[int, str, str | None]:
    """Return revision, state and outcome of the one study's newest job."""
    (study,) = plain(node.ledger.history.studies())
    return study["job"]["revision"], study["job"]["state"], study["job"]["outcome"]


def test_a_failed_study_that_is_sent_again_is_answered_anew(
    node: WholeNode, worker: Worker, tmp_path: Path
) -> None:
    files = write_instances(tmp_path / "study", 4)
    node.push(files)
    worker.answers = [RuntimeError("out of luck")]
    node.work()
    uid = str(plain(node.ledger.history.studies())[0]["StudyInstanceUID"])
    assert story(node) == (1, "done", "failed")
    (report,) = node.arrived(uid)["SR"]

    assert node.push(files) == [0, 0, 0, 0]
    assert story(node) == (1, "waiting", None)
    worker.answers = [NO_LESION]
    node.work()

    assert story(node) == (1, "done", "negative")
    assert len(list((tmp_path / "node" / "spool" / "incoming").rglob("*.dcm"))) == 4
    # It is answered now, so sending it once more changes nothing.
    assert node.push(files) == [0, 0, 0, 0]
    node.work()
    assert (story(node), worker.answers) == ((1, "done", "negative"), [])
    assert [str(one.SOPInstanceUID) for one in node.arrived(uid)["SR"]] == [str(report.SOPInstanceUID)]


def test_a_study_of_which_not_even_a_report_was_made_is_answered_when_it_is_sent_again(
    node: WholeNode, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_instances(tmp_path / "study", 4)
    node.push(files)
    worker.answers = [RuntimeError("out of luck")]
    with monkeypatch.context() as patch:
        patch.setattr(answering, "refuse_study", lambda *_: 1 / 0)
        node.work()
    assert story(node) == (1, "failed", "failed")

    assert node.push(files[:1]) == [0]
    worker.answers = [NO_LESION]
    node.work()

    assert story(node) == (1, "done", "negative")
    events = [
        event["event"]
        for event in node.history(str(plain(node.ledger.history.studies())[0]["StudyInstanceUID"]))["events"]
    ]
    assert events.count("sent-again") == 1


def test_a_study_that_is_sent_again_waits_until_it_is_quiet(
    node: WholeNode, worker: Worker, tmp_path: Path
) -> None:
    files = write_instances(tmp_path / "study", 4)
    node.push(files)
    worker.answers = [RuntimeError("out of luck")]
    node.work()

    node.push(files)
    last = node.ledger.instances.last_received_at(
        str(plain(node.ledger.history.studies())[0]["StudyInstanceUID"])
    )
    quiet_s = node.config.study.quiet_s
    for seconds, ready in ((quiet_s - 1, 0), (quiet_s + 1, 1)):
        place = replace(node.place, now=lambda seconds=seconds: last + seconds)
        assert flow.assess_studies(place) == ready
