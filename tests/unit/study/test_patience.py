"""How long a study waits, and on which evidence: each kind of evidence, each habit of a sender."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from dicomnode.records import SenderHabits
from dicomnode.settings.study import StudySettings
from dicomnode.study.patience import Judgement, decide, is_live, plan_patience

CAME_AT = 1_700_000_000.0
SETTINGS = StudySettings()
BOTH, ONE = frozenset({"t1", "flair"}), frozenset({"flair"})
COUNTED = Judgement(BOTH, is_counted=True, is_whole=True, sentence="counted")
WHOLE = Judgement(BOTH, is_counted=False, is_whole=True, sentence="whole")
BROKEN = Judgement(BOTH, is_counted=False, is_whole=False, sentence="a gap")
ALONE = Judgement(ONE, is_counted=False, is_whole=True, sentence="no T1 yet")
RELEASED, OPEN, UNKNOWN = SenderHabits(has_released=True), SenderHabits(is_sending=True), SenderHabits()


def stamp(seconds_before: float) -> str:
    local = datetime.fromtimestamp(CAME_AT - seconds_before)  # noqa: DTZ006  headers give local time
    return f"{local:%Y%m%d%H%M%S}.000000"


UNDER_WAY = replace(ALONE, acquired=stamp(240))
SENDS_IN_PARTS = replace(RELEASED, studies_with_one=3, has_sent_both=True, pause_between_series_s=500.0)


@pytest.mark.parametrize(
    ("judgement", "senders", "basis", "wait_s"),
    [
        (COUNTED, UNKNOWN, "count", 3),
        (COUNTED, RELEASED, "count", 3),
        (COUNTED, OPEN, "count", 10),
        (WHOLE, RELEASED, "released", 10),
        (WHOLE, UNKNOWN, "quiet", 60),
        (WHOLE, OPEN, "quiet", 60),
        (BROKEN, RELEASED, "quiet", 60),
        (BROKEN, OPEN, "quiet", 120),
        (ALONE, RELEASED, "released", 10),
        (ALONE, OPEN, "quiet", 120),
        (UNDER_WAY, RELEASED, "exam", 900),
        (UNDER_WAY, replace(RELEASED, studies_with_one=2), "exam", 900),
        (UNDER_WAY, replace(RELEASED, studies_with_one=3), "released", 10),
        (UNDER_WAY, replace(RELEASED, studies_with_one=3, pause_between_series_s=500.0), "released", 120),
        (UNDER_WAY, replace(RELEASED, studies_with_one=3, has_sent_both=True), "released", 10),
        (UNDER_WAY, SENDS_IN_PARTS, "exam", 750),
        (WHOLE, replace(RELEASED, pause_within_series_s=20.0), "released", 30),
        (WHOLE, replace(RELEASED, pause_while_open_s=50.0), "released", 10),
        (WHOLE, replace(RELEASED, pause_between_series_s=50.0), "released", 10),
        (ALONE, replace(RELEASED, pause_between_series_s=50.0), "released", 75),
        (WHOLE, replace(RELEASED, too_late_for_one_s=20.0), "released", 10),
        (ALONE, replace(RELEASED, too_late_for_one_s=20.0), "released", 60),
        (WHOLE, replace(RELEASED, too_late_for_both_s=50.0), "released", 75),
        (BROKEN, replace(RELEASED, pause_while_open_s=1000.0), "quiet", 120),
    ],
)
def test_each_evidence_has_its_wait(
    judgement: Judgement, senders: SenderHabits, basis: str, wait_s: float
) -> None:
    patience = plan_patience(judgement, SETTINGS, senders, CAME_AT)
    assert (patience.basis, patience.wait_s) == (basis, wait_s)
    before = decide(judgement, SETTINGS, senders, CAME_AT, CAME_AT + wait_s - 0.1)
    after = decide(judgement, SETTINGS, senders, CAME_AT, CAME_AT + wait_s)
    assert (before.ready, before.due_at, after.ready) == (False, CAME_AT + wait_s, True)
    assert after.evidence["basis"] == basis
    assert judgement.sentence in after.reason


def test_a_study_may_begin_once_it_looks_whole() -> None:
    assert decide(COUNTED, SETTINGS, OPEN, CAME_AT, CAME_AT).may_begin
    assert not decide(WHOLE, SETTINGS, RELEASED, CAME_AT, CAME_AT + 0.5).may_begin
    assert decide(WHOLE, SETTINGS, RELEASED, CAME_AT, CAME_AT + 1).may_begin
    assert not decide(WHOLE, SETTINGS, OPEN, CAME_AT, CAME_AT + 1).may_begin
    assert not decide(BROKEN, SETTINGS, RELEASED, CAME_AT, CAME_AT + 1).may_begin


def test_the_short_quiet_is_never_longer_than_the_long_one_by_itself() -> None:
    quick = StudySettings(settle_s=1, quiet_s=3)
    assert plan_patience(WHOLE, quick, RELEASED, CAME_AT).wait_s == 3


@pytest.mark.parametrize(
    ("acquired", "live"),
    [
        (stamp(0), True),
        (stamp(1700), True),
        (stamp(1900), False),
        (stamp(-200), True),
        (stamp(-400), False),
        ("", False),
        ("20231399", False),
        ("tomorrow at noon", False),
    ],
)
def test_an_exam_is_live_when_its_images_are_minutes_old(acquired: str, live: bool) -> None:
    assert is_live(acquired, CAME_AT) is live
