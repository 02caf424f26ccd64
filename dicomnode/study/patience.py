"""How long a study waits for what may still come, and on which evidence.

Pure functions: what the headers show (`Judgement`), what the senders let one conclude (`SenderHabits`), and
the time. The evidence, from the strongest to the weakest:

1. A count: the headers, the vendor's private elements or an archive say how many images there are, and so
   many are there. The study waits for `study.settle_s`.
2. A look and a farewell: the stacks have no gap and cover the head, and the sender has released its
   associations. The study waits for `study.short_quiet_s`, or longer where the sender's own pauses are
   longer.
3. A clock: nothing came for `study.quiet_s`.

Two things speak against an early answer. An open association of the sender announces more. And where one of
the two images is missing from an exam that was under the scanner minutes ago, it may still be acquired: the
study then waits up to `study.exam_s`, unless its sender is known not to pause for so long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dicomnode.records import Readiness, SenderHabits
from dicomnode.settings.study import StudySettings

PAUSE_FACTOR = 1.5
"""A sender is waited for half as long again as it paused before."""
LONGEST_FACTOR = 2.0
"""No habit prolongs `study.quiet_s` to more than so many times (an exam under way excepted)."""
LIVE_S = 1800.0
"""An image that was acquired so long before it came is of an exam that may go on."""
CLOCK_DIFFERENCE_S = 300.0
"""By so much the scanner's clock may be ahead of the node's."""
STUDIES_WITH_ONE = 3
"""After so many studies that were answered from T1 or FLAIR alone, their sender is known for it."""
BEGIN_S = 1.0
"""Stillness after which a study that looks whole is computed ahead."""


@dataclass(frozen=True)
class Judgement:
    """What the headers of a study show, whatever the time.

    Attributes
    ----------
    roles
        The roles that a series fills, "t1" and "flair".
    is_counted
        Both roles are filled, and a count agrees with every stack.
    is_whole
        At least one role is filled, and every stack has no gap and covers a head.
    sentence
        The verdicts on the series, for people.
    acquired
        When the newest image was acquired, YYYYMMDDHHMMSS by the scanner's clock; empty where not known.
    """

    roles: frozenset[str]
    is_counted: bool
    is_whole: bool
    sentence: str
    acquired: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_both(self) -> bool:
        """Whether both roles are filled."""
        return len(self.roles) == 2


@dataclass(frozen=True)
class Patience:
    """How long a study waits after its last image, in seconds, and what it waits for or relied on."""

    wait_s: float
    basis: str
    reason: str


def decide(
    judgement: Judgement, settings: StudySettings, senders: SenderHabits, last_received_at: float, now: float
) -> Readiness:
    """Decide whether a study may be processed now.

    Parameters
    ----------
    last_received_at, now
        Seconds since the epoch.
    """
    patience = plan_patience(judgement, settings, senders, last_received_at)
    evidence = {
        **judgement.evidence,
        "basis": patience.basis,
        "wait_s": round(patience.wait_s, 1),
        "sender_released": senders.has_released,
    }
    # Not the difference of the two: rounded, it may be less at the very moment that `due_at` names.
    if now >= last_received_at + patience.wait_s:
        return Readiness(True, f"{patience.reason} ({judgement.sentence}).", None, evidence)
    waiting = "Complete by evidence, waiting for it to settle" if judgement.is_counted else "Waiting for more"
    looks_whole = judgement.is_whole and not senders.is_sending
    begin_at = last_received_at + BEGIN_S
    return Readiness(
        False,
        f"{waiting} ({judgement.sentence}).",
        last_received_at + patience.wait_s,
        evidence,
        may_begin=judgement.is_counted or (looks_whole and now >= begin_at),
        begin_at=begin_at if looks_whole else None,
    )


def plan_patience(
    judgement: Judgement, settings: StudySettings, senders: SenderHabits, last_received_at: float
) -> Patience:
    """Return how long a study waits after its last image."""
    longest_s = LONGEST_FACTOR * settings.quiet_s
    if judgement.is_counted:
        wait_s = settings.settle_s
        if senders.is_sending:
            wait_s = max(wait_s, min(settings.short_quiet_s, settings.quiet_s))
        if senders.too_late_for_both_s:
            wait_s = max(wait_s, min(PAUSE_FACTOR * senders.too_late_for_both_s, settings.quiet_s))
        return Patience(wait_s, "count", "T1 and FLAIR are complete by evidence")
    if not judgement.has_both and is_live(judgement.acquired, last_received_at):
        exam_s = _exam_s(settings, senders)
        if exam_s > settings.quiet_s:
            return Patience(exam_s, "exam", _quiet_reason(exam_s, "the exam may have gone on"))
    if judgement.is_whole and senders.has_released:
        wait_s = min(_short_quiet_s(judgement, settings, senders), longest_s)
        reason = (
            "The stacks have no gap and cover the head, the sender has released its association and "
            f"nothing came for {wait_s:.0f} s"
        )
        return Patience(wait_s, "released", reason)
    return Patience(*_plan_quiet(judgement, settings, senders, longest_s))


def _plan_quiet(
    judgement: Judgement, settings: StudySettings, senders: SenderHabits, longest_s: float
) -> tuple[float, str, str]:
    """Return the wait where nothing but the clock decides, its basis and its reason."""
    pause_s = max(
        senders.pause_while_open_s,
        senders.pause_within_series_s,
        senders.pause_between_series_s,
        senders.too_late_for_one_s,
        senders.too_late_for_both_s,
    )
    wait_s = max(settings.quiet_s, min(PAUSE_FACTOR * pause_s, longest_s))
    if senders.is_sending and not (judgement.has_both and judgement.is_whole):
        wait_s = longest_s
    return wait_s, "quiet", _quiet_reason(wait_s, "taken as it is")


def is_live(acquired: str, received_at: float) -> bool:
    """Return whether an image was acquired minutes before it came, by the clocks of scanner and node."""
    try:
        acquired_at = datetime.strptime(acquired[:14], "%Y%m%d%H%M%S")  # noqa: DTZ007  DICOM: local time
        age_s = (datetime.fromtimestamp(received_at) - acquired_at).total_seconds()  # noqa: DTZ006
    except (ValueError, OverflowError, OSError):
        return False
    return -CLOCK_DIFFERENCE_S <= age_s <= LIVE_S


def _short_quiet_s(judgement: Judgement, settings: StudySettings, senders: SenderHabits) -> float:
    """Return the short quiet of senders who have hung up: longer than they pause before they call again.

    Where images came too late before, the clock of `study.quiet_s` is the least.
    """
    pause_s, too_late_s = senders.pause_within_series_s, senders.too_late_for_both_s
    if not judgement.has_both:
        pause_s = max(pause_s, senders.pause_between_series_s)
        too_late_s = max(too_late_s, senders.too_late_for_one_s)
    wait_s = max(min(settings.short_quiet_s, settings.quiet_s), PAUSE_FACTOR * pause_s)
    return max(wait_s, settings.quiet_s, PAUSE_FACTOR * too_late_s) if too_late_s else wait_s


def _exam_s(settings: StudySettings, senders: SenderHabits) -> float:
    """Return how long the second image of an exam is waited for."""
    if senders.studies_with_one < STUDIES_WITH_ONE:
        return settings.exam_s
    if not senders.has_sent_both:
        return 0.0
    return min(settings.exam_s, PAUSE_FACTOR * senders.pause_between_series_s)


def _quiet_reason(wait_s: float, words: str) -> str:
    return f"Nothing came for {wait_s:.0f} s; {words}"
