"""What a study that waits waits for: how many of its images are there, as the working side will judge it."""

from __future__ import annotations

from collections.abc import Iterable

from dicomnode.errors import RetryLater
from dicomnode.ledger.shown import StudyLine
from dicomnode.states import JobState
from dicomnode.study.assembly import UNKNOWN_SENDERS, assemble, judge_study
from dicomnode.study.patience import decide
from dicomnode.study.person import agree_on_patient
from dicomnode.study.remembered import StudyView
from dicomnode.web.site import Site

# Each costs the headers of a study, once for each change of it.
_MOST_JUDGED = 10


def waiting_for(site: Site, state: str, StudyInstanceUID: str, last_received_at: float) -> str:
    """Return in a sentence what a study in this state still waits for; empty where it does not wait."""
    if state != JobState.WAITING.value:
        return ""
    try:
        view = _view(site, StudyInstanceUID)
        return decide(view.judgement, site.config.study, UNKNOWN_SENDERS, last_received_at, site.now()).reason
    except RetryLater:
        raise
    except Exception:  # noqa: BLE001  whatever headers a study has, its page must open
        return "It cannot be judged yet; it is taken when it has been quiet for a while."


def _view(site: Site, StudyInstanceUID: str) -> StudyView:
    """Return what the headers of a study show; pages refresh themselves, and reading them costs the most."""
    instances, selection = site.ledger.instances, site.config.selection

    def look() -> StudyView:
        readable = instances.of_study(StudyInstanceUID)
        return StudyView(
            judge_study(assemble(StudyInstanceUID, readable), selection), agree_on_patient(readable)
        )

    mark = (instances.content_mark(StudyInstanceUID), selection)
    return site.waiting.view(StudyInstanceUID, mark, look)


def reasons_of(site: Site, lines: Iterable[StudyLine]) -> dict[str, str]:
    """Return the sentences of the first studies of a list that wait, by UID."""
    waiting = [line for line in lines if line.job is not None and line.job.state == JobState.WAITING.value]
    return {
        line.StudyInstanceUID: waiting_for(
            site, JobState.WAITING.value, line.StudyInstanceUID, line.last_received_at
        )
        for line in waiting[:_MOST_JUDGED]
    }
