"""The working side's own judgement: one odd study, a backlog or a full disk must not cost another study its answer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dicomnode import flow
from dicomnode.answer import StudyAnswer
from dicomnode.compute import Compute
from dicomnode.errors import OutOfResources
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.records import HeaderReading, InstanceHeader, Readiness
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import JobState, Outcome
from dicomnode.study.assembly import assemble
from dicomnode.working import answering, readiness
from tests.factories.ledger import header, new_ledger, received


class Bench:
    """A workplace whose clock is set by hand and whose headers come from `studies`: instance number -> study."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.ledger, self.now, self.studies = ledger, 1000.0, dict[int, str]()
        self.answers: list[Any] = []
        config = parse_config({"storage": {"root": str(folder), "minimum_free_mb": 1}})
        self.place = flow.Workplace(
            config,
            ledger,
            SpoolLayout(folder / "spool"),
            cast("Compute", self),
            "work@here",
            lambda: self.now,
        )

    closed = False

    def run(self, _function: Any, _argument: Any, **_more: Any) -> StudyAnswer:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return cast("StudyAnswer", answer)

    def receive(self, number: int, study: str, at: float) -> None:
        self.studies[number] = study
        self.ledger.instances.add(received(number, at=at))

    def read_header(self, path: Path) -> InstanceHeader:
        return next(
            header(number, study)
            for number, study in self.studies.items()
            if Path(received(number).path).name == path.name
        )

    def states(self) -> dict[str, str]:
        return {
            study["StudyInstanceUID"]: study["job"]["state"]
            for study in plain(self.ledger.history.studies())
            if study["job"]
        }


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    ledger = new_ledger(tmp_path)
    bench = Bench(tmp_path, ledger)
    monkeypatch.setattr(readiness, "read_header", bench.read_header)
    yield bench
    ledger.close()


def failing(real: Callable[..., Any], study: str) -> Callable[..., Any]:
    def assemble_or_fail(uid: str, instances: Any) -> Any:
        if uid == study:
            raise ZeroDivisionError
        return real(uid, instances)

    return assemble_or_fail


def test_a_study_that_cannot_be_judged_holds_up_no_other_and_is_taken_when_quiet(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "assemble", failing(assemble, "2.25.1"))
    bench.receive(1, "2.25.1", at=990.0)
    bench.receive(2, "2.25.2", at=900.0)
    flow.index_instances(bench.place)

    assert flow.assess_studies(bench.place) == 1
    assert bench.states() == {"2.25.1": "waiting", "2.25.2": "ready"}
    bench.now = 1060.0
    assert flow.assess_studies(bench.place) == 1
    assert bench.states() == {"2.25.1": "ready", "2.25.2": "ready"}


def test_an_instance_that_cannot_be_listed_is_set_aside_and_the_next_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.ledger.instances.record_headers

    def record_headers(readings: Sequence[HeaderReading], now: float) -> None:
        if any(reading.header.StudyInstanceUID == "2.25.1" for reading in readings):
            raise TypeError("cannot be kept")
        real(readings, now)

    monkeypatch.setattr(bench.ledger.instances, "record_headers", record_headers)
    bench.receive(1, "2.25.1", at=10.0)
    bench.receive(2, "2.25.2", at=10.0)
    flow.index_instances(bench.place)

    assert bench.ledger.instances.unindexed(10) == []
    assert plain(bench.ledger.history.health())["instances"]["unreadable"] == 1
    assert bench.states() == {"2.25.2": "waiting"}


def test_a_backlog_of_unread_headers_makes_no_half_study_ready(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "INDEX_BATCH", 2)
    for number in range(1, 6):
        bench.receive(number, "2.25.1", at=10.0 + number)

    flow.index_instances(bench.place)
    assert flow.assess_studies(bench.place) == 0
    flow.index_instances(bench.place)
    assert flow.assess_studies(bench.place) == 0
    flow.index_instances(bench.place)
    assert flow.assess_studies(bench.place) == 1


def test_studies_are_looked_at_again_when_the_first_of_them_is_due(bench: Bench) -> None:
    turns: list[float] = []
    place = replace(bench.place, wake_at=turns.append)
    bench.receive(1, "2.25.1", at=990.0)
    bench.receive(2, "2.25.2", at=980.0)
    flow.index_instances(place)

    flow.assess_studies(place)
    assert turns == [980.0 + place.config.study.quiet_s]
    bench.now = turns[0]
    assert flow.assess_studies(place) == 1
    assert turns[1:] == [990.0 + place.config.study.quiet_s]


def test_each_claim_has_a_holder_of_its_own(bench: Bench) -> None:
    bench.receive(1, "2.25.1", at=10.0)
    flow.index_instances(bench.place)
    flow.assess_studies(bench.place)
    owners: list[str] = []
    claim = bench.ledger.jobs.claim

    def claim_job(owner: str, now: float, lease_s: float) -> Any:
        owners.append(owner)
        return claim(owner, now, lease_s)

    bench.ledger.jobs.claim = claim_job  # type: ignore[method-assign]
    bench.answers.append(StudyAnswer(Outcome.NEGATIVE, "No lesion found.", ()))
    assert flow.answer_next(bench.place)
    assert not flow.answer_next(bench.place)

    assert len(set(owners)) == 2
    assert all(owner.startswith("work@here/") for owner in owners)
    assert bench.states() == {"2.25.1": JobState.ENCODED.value}


def test_the_step_of_a_computation_is_in_the_ledger_while_it_lasts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.receive(1, "2.25.1", at=10.0)
    flow.index_instances(bench.place)
    flow.assess_studies(bench.place)
    shown: list[tuple[str | None, float | None]] = []

    def step_shown() -> tuple[str | None, float | None]:
        (line,) = bench.ledger.history.studies()
        assert line.job is not None
        return line.job.step, line.job.step_since

    def run(_function: Any, _argument: Any, *, progress: Callable[[str], None], **_more: Any) -> StudyAnswer:
        for step in ("load images", "infer"):
            bench.now += 5
            progress(step)
            shown.append(step_shown())
        return StudyAnswer(Outcome.NEGATIVE, "No lesion found.", ())

    monkeypatch.setattr(bench, "run", run)
    began = bench.now
    assert flow.answer_next(bench.place)
    assert shown == [("load images", began + 5), ("infer", began + 10)]
    assert step_shown() == (None, None)


def test_a_spool_that_is_read_only_uses_up_no_tries_and_no_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.receive(1, "2.25.1", at=10.0)
    flow.index_instances(bench.place)
    flow.assess_studies(bench.place)
    bench.place.layout.prepare()
    with monkeypatch.context() as patch:
        # For root, too, what is mounted read-only is not writable; a folder's mode would not do.
        patch.setattr(os, "access", lambda path, mode: (path, mode) != (bench.place.layout.root, os.W_OK))
        assert not flow.answer_next(bench.place)
        assert bench.states() == {"2.25.1": "ready"}

    bench.answers = [StudyAnswer(Outcome.NEGATIVE, "No lesion found.", ())]
    assert flow.answer_next(bench.place)
    assert bench.states() == {"2.25.1": "encoded"}


def test_a_full_disk_uses_up_no_tries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.receive(1, "2.25.1", at=10.0)
    flow.index_instances(bench.place)
    flow.assess_studies(bench.place)
    for _ in range(2 * bench.place.config.compute.attempts):
        bench.answers.append(OutOfResources("the spool cannot be written: No space left on device"))
        flow.answer_next(bench.place)
        assert bench.states() == {"2.25.1": "ready"}
        bench.now += answering.FULL_DISK_WAIT_S

    full = shutil.disk_usage("/")._replace(free=0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _path: full)
        assert not flow.answer_next(bench.place)
    bench.answers.append(StudyAnswer(Outcome.NEGATIVE, "No lesion found.", ()))
    assert flow.answer_next(bench.place)
    assert bench.states() == {"2.25.1": "encoded"}


def test_a_study_waits_while_a_correction_of_its_patient_arrives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = Readiness(True, "complete by evidence")
    monkeypatch.setattr(readiness, "decide", lambda *_: complete)
    marks = {1: "aaaaaaaa", 2: "aaaaaaaa"}
    real = bench.read_header
    monkeypatch.setattr(
        readiness,
        "read_header",
        lambda path: replace(
            real(path), identity_mark=marks[int(real(path).SOPInstanceUID.rsplit(".", 1)[1])]
        ),
    )
    bench.receive(1, "2.25.1", at=990.0)
    bench.receive(2, "2.25.1", at=990.0)
    marks[1] = "bbbbbbbb"
    flow.index_instances(bench.place)

    assert flow.assess_studies(bench.place) == 0
    bench.now = 990.0 + bench.place.config.study.quiet_s
    assert flow.assess_studies(bench.place) == 1


def test_a_file_carries_the_time_at_which_it_became_the_newest(tmp_path: Path, bench: Bench) -> None:
    path = bench.place.layout.root / received(1).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"bytes")
    bench.receive(1, "2.25.1", at=500.0)
    flow.index_instances(bench.place)
    assert path.stat().st_mtime == 500.0
