"""What a study that waits waits for: how many of its images are there, as the working side will judge it."""

from __future__ import annotations

from collections.abc import Iterable

from dicomnode.errors import RetryLater
from dicomnode.ledger.shown import StudyLine
from dicomnode.states import JobState
from dicomnode.study.assembly import assemble, readiness
from dicomnode.web.site import Site

# Each costs the headers of a study.
_MOST_JUDGED = 10


def waiting_for(site: Site, state: str, StudyInstanceUID: str, last_received_at: float) -> str:
    """Return in a sentence what a study in this state still waits for; empty where it does not wait."""
    if state != JobState.WAITING.value:
        return ""
    try:
        study = assemble(StudyInstanceUID, site.ledger.instances.of_study(StudyInstanceUID))
        selection, patience = site.config.selection, site.config.study
        return readiness(study, selection, patience, last_received_at, site.now(), None).reason
    except RetryLater:
        raise
    except Exception:  # noqa: BLE001  whatever headers a study has, its page must open
        return "It cannot be judged yet; it is taken when it has been quiet for a while."


def reasons_of(site: Site, lines: Iterable[StudyLine]) -> dict[str, str]:
    """Return the sentences of the first studies of a list that wait, by UID."""
    waiting = [line for line in lines if line.job is not None and line.job.state == JobState.WAITING.value]
    return {
        line.StudyInstanceUID: waiting_for(
            site, JobState.WAITING.value, line.StudyInstanceUID, line.last_received_at
        )
        for line in waiting[:_MOST_JUDGED]
    }
