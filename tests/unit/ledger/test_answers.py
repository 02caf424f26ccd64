"""What statistics are made of: one row a study, from its last image to its first answer, also when the study is gone."""

from __future__ import annotations

import dataclasses

from dicomnode.ledger.answers import KEEP_S
from dicomnode.ledger.ledger import Ledger
from dicomnode.records import Conclusion
from dicomnode.states import DeliveryState, Outcome
from tests.factories.ledger import STUDY, LedgerStory


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A record as the pipeline hands it over."""

    volume_ml: float


def answer(story: LedgerStory, outcome: Outcome, detail: dict[str, object], now: float) -> None:
    job = story.ledger.jobs.claim("work", now, 60.0)
    assert job is not None
    story.ledger.jobs.finish(job.id, "work", Conclusion(outcome, "because", (), {}, detail), now)


def test_an_answer_is_measured_from_the_last_image_to_the_results(ledger: Ledger, story: LedgerStory) -> None:
    story.encoded(now=40.0)

    figures = ledger.answers.figures(0.0)

    assert figures.counts == {("lesions", ""): 1}
    assert figures.times == [(10.0, 40.0)]
    assert figures.volumes_ml == [2.5]
    assert ledger.answers.figures(11.0).times == []


def test_an_order_to_answer_again_replaces_the_answer_and_keeps_its_time(
    ledger: Ledger, story: LedgerStory
) -> None:
    story.encoded(now=40.0)
    ledger.jobs.retry(STUDY, 5_000.0, rerun=True)
    answer(story, Outcome.REFUSED, {"code": "no-flair", "lesions": ()}, 5_010.0)

    figures = ledger.answers.figures(0.0)

    assert (figures.counts, figures.times, figures.volumes_ml) == (
        {("refused", "no-flair"): 1},
        [(10.0, 40.0)],
        [],
    )


def test_newer_images_make_another_answer_of_the_same_study(ledger: Ledger, story: LedgerStory) -> None:
    story.encoded(now=40.0)
    story.receive(9, at=100.0)
    story.index(now=101.0)
    (job,) = ledger.jobs.waiting()
    assert ledger.answers.figures(0.0).counts == {("lesions", ""): 1}, "until the next one"
    ledger.jobs.mark_ready(job.id, "complete", {}, 110.0)
    answer(story, Outcome.LESIONS, {"lesions": (Lesion(1.5), Lesion(2.0))}, 120.0)

    figures = ledger.answers.figures(0.0)

    assert (figures.counts, figures.times, figures.volumes_ml) == (
        {("lesions", ""): 1},
        [(100.0, 120.0)],
        [3.5],
    )


def test_a_failure_without_a_report_counts(ledger: Ledger, story: LedgerStory) -> None:
    job = story.running("work")
    ledger.jobs.fail(job.id, "work", "no report", 50.0)

    assert ledger.answers.figures(0.0).counts == {("failed", ""): 1}


def test_figures_outlive_the_study_for_a_year_and_hold_no_uid_of_it(
    ledger: Ledger, story: LedgerStory
) -> None:
    story.encoded(now=40.0)
    for delivery in ledger.deliveries.claim("d", 50.0, 60, 10):
        ledger.deliveries.record(delivery.id, DeliveryState.SENT, "0x0000 Success", 51.0)
    ledger.jobs.close_delivered(60.0)

    ledger.answers.forget_old(10.0 + 2 * KEEP_S)
    assert ledger.answers.figures(0.0).times, "the study is still there"
    assert ledger.retention.expire_study(STUDY, 1_000.0, lambda _paths: None)
    assert ledger.history.of_study(STUDY) is None
    assert ledger.answers.figures(0.0).volumes_ml == [2.5]
    # It comes again, and is another study by then.
    story.encoded(now=70.0)
    assert ledger.answers.figures(0.0).times == [(10.0, 40.0), (10.0, 70.0)]

    assert ledger.answers.forget_old(10.0 + KEEP_S) == 0
    assert ledger.answers.forget_old(11.0 + KEEP_S) == 1
