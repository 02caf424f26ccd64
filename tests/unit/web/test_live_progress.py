"""What a page shows of a study that is under way: its step and seconds, and what it waits for."""

from __future__ import annotations

import re

import pytest

from dicomnode.ledger.instances import Instances
from tests.factories.ledger import STUDY
from tests.factories.pages import Pages

PATHS = ("/", f"/studies/{STUDY}")


def words(pages: Pages, path: str) -> str:
    """Return what a page shows, without its markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", pages.client.get(path).text).split())


@pytest.mark.parametrize("path", PATHS)
def test_a_study_that_is_computed_shows_its_step_and_seconds(pages: Pages, path: str) -> None:
    pages.log_in()
    job = pages.story.running(now=pages.clock.now)
    jobs = pages.site.ledger.jobs

    jobs.note_step(job.id, "register images", pages.clock.now)
    pages.clock.now += 12
    assert re.search(r"register images ?, 12 s", words(pages, path))
    jobs.note_step(job.id, "infer", pages.clock.now)
    pages.clock.now += 3
    assert re.search(r"infer ?, 3 s", words(pages, path))
    assert "for 15 s" in words(pages, path)
    pages.story.finish(job, now=pages.clock.now)
    assert "infer" not in words(pages, path)


def test_a_step_is_shown_while_its_computation_lasts_and_no_longer(pages: Pages) -> None:
    pages.log_in()
    job, jobs = pages.story.waiting(1), pages.site.ledger.jobs

    jobs.note_step(job.id, "infer", 20.0)
    assert "already computed: infer" in words(pages, "/")
    jobs.note_step(job.id, None, 30.0)
    assert "computed: infer" not in words(pages, "/")

    # Of a process that was killed in the middle.
    jobs.note_step(job.id, "infer", 40.0)
    jobs.forget_steps()
    assert "infer" not in words(pages, "/")

    # One that was interrupted is to be tried again, and is in no step until then.
    running = pages.story.running(owner="work:1", now=50.0)
    jobs.note_step(running.id, "infer", 51.0)
    jobs.release(running.id, "work:1", "the worker died", 60.0, 70.0)
    assert pages.story.newest()["step"] is None

    # What is answered has no step any more, however late the news come.
    claimed = jobs.claim("work:1", 80.0, 60.0)
    assert claimed is not None
    pages.story.finish(claimed, now=85.0)
    jobs.note_step(claimed.id, "infer", 90.0)
    assert pages.story.newest()["step"] is None


def test_headers_of_a_study_that_waits_are_read_once_for_each_change(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[str] = []
    of_study = Instances.of_study

    def counted(instances: Instances, StudyInstanceUID: str) -> object:
        readings.append(StudyInstanceUID)
        return of_study(instances, StudyInstanceUID)

    monkeypatch.setattr(Instances, "of_study", counted)
    pages.log_in()
    pages.story.waiting(1)
    for path in PATHS * 3:
        pages.client.get(path)
    assert readings == [STUDY]

    pages.story.waiting(1, 2)
    for path in PATHS * 3:
        pages.client.get(path)
    assert readings == [STUDY, STUDY]
