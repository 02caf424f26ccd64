"""Instances to studies, completeness by evidence, and the moment a study becomes ready."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dicomnode.records import InstanceHeader, Readiness, Study
from dicomnode.settings.config import SelectionSettings, StudySettings
from dicomnode.study.assembly import assemble, readiness, series_completeness
from tests.factories.headers import make_series, make_study, without

T1 = make_series("t1", plane="sagittal", count=80, spacing_mm=2.0)
FLAIR = make_series("flair")


def test_instances_become_series_by_number_and_count_once() -> None:
    instances = [*FLAIR.instances, *T1.instances, *FLAIR.instances[:4]]
    random.Random(5).shuffle(instances)
    study = assemble("1.2.3", instances)
    assert [series.SeriesInstanceUID for series in study.series] == ["1.2.3.2", "1.2.3.3"]
    assert [len(series.instances) for series in study.series] == [80, 30]


def test_a_whole_series_is_complete_by_evidence() -> None:
    verdict = series_completeness(FLAIR)
    assert verdict.complete
    assert verdict.reason == "30 slices, 5.00 mm apart without a gap, as many as the headers announce"


@pytest.mark.parametrize("there", [11, 29])
def test_a_series_that_is_still_arriving_in_order_is_not_complete(there: int) -> None:
    verdict = series_completeness(without(FLAIR, range(there, 30)))
    assert not verdict.complete
    assert verdict.reason == f"{there} of 30 slices are there"


def test_without_a_count_positions_are_not_evidence_enough() -> None:
    assert not series_completeness(make_series(announced=None)).complete


@pytest.mark.parametrize(
    ("listed", "complete", "words"),
    [
        (30, True, "as many as the archive lists"),
        (31, False, "30 of 31 images that the archive lists are there"),
        (None, False, "no header says"),
    ],
)
def test_what_an_archive_lists_is_a_count(listed: int | None, complete: bool, words: str) -> None:
    verdict = series_completeness(make_series(announced=None), listed)
    assert verdict.complete is complete
    assert words in verdict.reason
    assert not series_completeness(FLAIR, 31).complete


@pytest.mark.parametrize("count", [{"SlicesAnnounced": 30}, {}])
def test_any_of_the_counts_is_evidence(count: dict[str, int]) -> None:
    related = None if count else 30
    assert series_completeness(
        make_series(announced=None, extra=count, NumberOfSeriesRelatedInstances=related)
    ).complete


def test_an_enhanced_instance_is_complete_by_its_frames() -> None:
    positions = tuple((0.0, 0.0, 4.0 * index) for index in range(40))
    series = make_series(
        count=1,
        announced=None,
        NumberOfFrames=40,
        positions=positions,
        orientations=((1.0, 0.0, 0.0, 0.0, 1.0, 0.0),) * 40,
    )
    assert series_completeness(series).complete


def test_a_gap_is_not_complete_even_when_the_count_fits() -> None:
    def leap(index: int, header: InstanceHeader) -> InstanceHeader:
        return replace(header, positions=((0.0, 0.0, 5.0 * index + (5.0 if index > 12 else 0.0)),))

    verdict = series_completeness(make_series(each=leap))
    assert not verdict.complete
    assert [finding.code for finding in verdict.findings] == ["missing-slices"]


def ready_at(study: Study, quiet_s: float) -> Readiness:
    return readiness(
        study, SelectionSettings(), StudySettings(settle_s=3, quiet_s=60), 1000.0, 1000.0 + quiet_s
    )


def test_both_complete_is_ready_after_it_has_settled() -> None:
    waiting = ready_at(make_study(T1, FLAIR), 2.9)
    assert (waiting.ready, waiting.due_at) == (False, 1003.0)
    verdict = ready_at(make_study(T1, FLAIR), 3.0)
    assert (verdict.ready, verdict.due_at) == (True, None)
    assert verdict.reason.startswith("T1 and FLAIR are complete by evidence (FLAIR: 30 slices")
    assert verdict.evidence["complete"] == {"t1": True, "flair": True}


@pytest.mark.parametrize(
    "study", [make_study(FLAIR), make_study(T1, without(FLAIR, [5])), make_study(T1, without(FLAIR, [29]))]
)
def test_everything_else_waits_for_the_quiet_timer(study: Study) -> None:
    waiting = ready_at(study, 59.9)
    assert (waiting.ready, waiting.due_at) == (False, 1060.0)
    verdict = ready_at(study, 60)
    assert verdict.ready
    assert verdict.reason.startswith("Nothing came for 60 s; taken as it is (")


def test_the_reason_says_what_is_missing() -> None:
    assert "FLAIR: 29 of 30 slices are there" in ready_at(make_study(T1, without(FLAIR, [29])), 60).reason
    assert "no T1 yet" in ready_at(make_study(FLAIR), 60).reason


def test_a_study_that_the_checks_would_refuse_is_not_complete() -> None:
    nowhere = make_series(FrameOfReferenceUID="")
    verdict = ready_at(make_study(T1, nowhere), 10)
    assert not verdict.ready
    assert "Frame of Reference" in verdict.reason


def test_an_empty_study_waits_and_then_is_taken() -> None:
    assert not ready_at(make_study(), 1).ready
    assert ready_at(make_study(), 61).ready
