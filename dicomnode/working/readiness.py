"""From what was received to what is ready: headers are read, and each waiting study is judged."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from dicomnode import fetch
from dicomnode.audit.events import SUCCESS, AuditEvent
from dicomnode.errors import RetryLater, UnreadableInstance, where
from dicomnode.records import HeaderReading, Job, Readiness, ReceivedInstance
from dicomnode.settings.rules import Priority
from dicomnode.study.assembly import assemble, judge_study
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.study.patience import LONGEST_FACTOR, decide
from dicomnode.study.person import agree_on_patient
from dicomnode.study.remembered import StudyView
from dicomnode.study.rules import next_begin
from dicomnode.study.selection import may_matter
from dicomnode.working.workplace import Workplace, rule_of

log = structlog.get_logger()

INDEX_BATCH = 500
# In one transaction: reception waits for the ledger meanwhile.
HEADERS_AT_ONCE = 50
# Of several studies that are due the one with the larger number goes first.
PRIORITIES: Mapping[Priority, int] = {"urgent": 10, "normal": 0, "night": -10}


def index_instances(workplace: Workplace) -> int:
    """Read the headers of instances that have none yet; returns how many were looked at."""
    rows = workplace.ledger.instances.unindexed(INDEX_BATCH)
    arrived: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    readings: list[tuple[HeaderReading, ReceivedInstance]] = []
    for instance_id, received in rows:
        try:
            header = read_header(workplace.layout.root / received.path)
            _keep_order(workplace.layout.root / received.path, received.received_at)
        except UnreadableInstance as problem:
            log.warning("instance_unreadable", sop_instance_uid=received.SOPInstanceUID, reason=str(problem))
            workplace.ledger.instances.record_unreadable(
                instance_id, str(problem), workplace.now(), StudyInstanceUID=problem.StudyInstanceUID
            )
            continue
        matters = may_matter(header, workplace.config.selection)
        readings.append((HeaderReading(instance_id, header, is_answerable(header), matters), received))
    for first in range(0, len(readings), HEADERS_AT_ONCE):
        for reading, received in _record_headers(workplace, readings[first : first + HEADERS_AT_ONCE]):
            header = reading.header
            key = (header.StudyInstanceUID, received.calling_ae, received.peer_host)
            arrived[key][received.SOPClassUID] += 1
    for (study, calling_ae, host), classes in arrived.items():
        workplace.audit(AuditEvent("instances-received", SUCCESS, calling_ae, host, study, classes))
    return len(rows)


def _record_headers(
    workplace: Workplace, readings: Sequence[tuple[HeaderReading, ReceivedInstance]]
) -> Iterator[tuple[HeaderReading, ReceivedInstance]]:
    """Note headers, in one transaction where nothing is wrong with any; yield those that are noted."""
    try:
        workplace.ledger.instances.record_headers([reading for reading, _ in readings], workplace.now())
        yield from readings
        return
    except RetryLater:
        raise
    except Exception as bug:  # noqa: BLE001  which of them it is shows one by one
        log.warning("headers_listed_one_by_one", error=type(bug).__name__)
    for reading, received in readings:
        try:
            workplace.ledger.instances.record_headers([reading], workplace.now())
            yield reading, received
        except RetryLater:
            raise
        except Exception as bug:  # noqa: BLE001  it must not stand in the way of all that come after it
            reason = f"unreadable: the header cannot be listed ({type(bug).__name__})"
            log.error(  # noqa: TRY400
                "instance_not_listed",
                sop_instance_uid=received.SOPInstanceUID,
                where=where(bug),
                error=type(bug).__name__,
            )
            workplace.ledger.instances.record_unreadable(reading.instance_id, reason, workplace.now())


def _keep_order(path: Path, received_at: float) -> None:
    """Give a file the time at which it last became the newest version.

    A ledger that is made from the spool lists in this order.
    """
    with suppress(OSError):
        if abs(path.stat().st_mtime - received_at) > 1.0:
            os.utime(path, (received_at, received_at))


def assess_studies(workplace: Workplace) -> int:
    """Decide for every waiting study whether it is ready; returns how many became so, or may begin."""
    ready, early, turns = 0, dict[int, Hashable](), list[float]()
    # A header that is not read yet may be of any study: all that is known is how things stood when that
    # instance came.
    unread_since = workplace.ledger.instances.oldest_unread_at()
    known_until = workplace.now() if unread_since is None else min(unread_since, workplace.now())
    waiting = workplace.ledger.jobs.waiting()
    for job in waiting:
        verdict = assess(workplace, job, known_until)
        turns += [at for at in (verdict.begin_at, verdict.due_at) if at is not None]
        if verdict.may_begin and "sent_again" not in job.detail:
            early[job.id] = workplace.ledger.instances.content_mark(job.StudyInstanceUID)
        if verdict.ready and not _waits_for_fetch(workplace, job, verdict, unread=unread_since is not None):
            priority, not_before = _turn_of(workplace, job)
            workplace.ledger.jobs.mark_ready(
                job.id,
                verdict.reason,
                verdict.evidence,
                workplace.now(),
                priority=priority,
                not_before=not_before,
            )
            log.info(
                "study_ready",
                study_instance_uid=job.StudyInstanceUID,
                revision=job.revision,
                reason=verdict.reason,
            )
            ready += 1
    _look_again(workplace, turns)
    workplace.views.keep_only({job.StudyInstanceUID for job in waiting})
    workplace.ahead.offer(early)
    return ready + len(workplace.ahead.candidates())


def _look_again(workplace: Workplace, turns: Sequence[float]) -> None:
    """Have the studies looked at again at the first of the times at which one of them may begin or is due."""
    now = workplace.now()
    coming = [at for at in turns if at > now]
    if coming:
        workplace.wake_at(min(coming))


def assess(workplace: Workplace, job: Job, known_until: float) -> Readiness:
    """Judge one study; one that cannot be judged is taken when it is quiet.

    It is then answered, and holds up no other.
    """
    uid = job.StudyInstanceUID
    last_received_at = workplace.ledger.instances.last_received_at(uid)
    settings = workplace.config.study
    try:
        view = _view(workplace, uid)
        senders = workplace.ledger.senders.habits_of_study(uid, LONGEST_FACTOR * settings.quiet_s)
        verdict = decide(view.judgement, settings, senders, last_received_at, known_until)
        quiet_at = last_received_at + settings.quiet_s
        if verdict.ready and known_until < quiet_at and not view.agrees_on_patient:
            reason = "its images do not agree on patient and order; the rest of a correction may follow"
            return replace(verdict, ready=False, reason=reason, due_at=quiet_at)
        return verdict
    except RetryLater:
        raise
    except Exception as bug:  # noqa: BLE001  whatever is in one study must not stop the others
        log.error(  # noqa: TRY400
            "assessment_crashed", study_instance_uid=uid, where=where(bug), error=type(bug).__name__
        )
        quiet = known_until - last_received_at >= workplace.config.study.quiet_s
        return Readiness(
            quiet, f"Whether it is complete cannot be judged ({type(bug).__name__}); taken as it is."
        )


def _view(workplace: Workplace, StudyInstanceUID: str) -> StudyView:
    """Return what the headers of a study show; they are read again only when something of it changed."""
    config, ledger = workplace.config, workplace.ledger
    listed = ledger.fetches.counts(StudyInstanceUID, config.study.settle_s) if config.fetch.counts else None
    mark = (
        ledger.instances.content_mark(StudyInstanceUID),
        None if listed is None else tuple(sorted(listed.items())),
        config.selection,
    )

    def look() -> StudyView:
        instances = ledger.instances.of_study(StudyInstanceUID)
        study = assemble(StudyInstanceUID, instances)
        return StudyView(judge_study(study, config.selection, listed), agree_on_patient(instances))

    return workplace.views.view(StudyInstanceUID, mark, look)


def _turn_of(workplace: Workplace, job: Job) -> tuple[int, float]:
    """Return the priority that the rules give a study, and before when it is not to be computed."""
    rule = rule_of(workplace, job).rule
    if rule is None:
        return 0, workplace.now()
    night = rule.priority == "night"
    begin = next_begin(workplace.config.study.night_hours, workplace.now()) if night else workplace.now()
    return PRIORITIES[rule.priority], begin


def _waits_for_fetch(workplace: Workplace, job: Job, verdict: Readiness, *, unread: bool) -> bool:
    """Want what is missing, once; True until it has come (and been read) or cannot be had."""
    fetch_kinds = fetch.plan_fetches(verdict.evidence.get("roles", ()), workplace.config.fetch)
    # All of them: one that is asked for must not wait for the other.
    outstanding = [
        fetch_kind
        for fetch_kind in fetch_kinds
        if workplace.ledger.fetches.want(job.StudyInstanceUID, fetch_kind, workplace.now())
    ]
    return bool(outstanding) or (bool(fetch_kinds) and unread)
