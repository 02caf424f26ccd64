"""The working side, in the order of the arrow. Read this first.

    mend_times          after the clock was set back                            ledger
    index_instances     read the headers of what `receive` has made safe        spool -> ledger -> study
    assess_studies      is a study complete, by evidence or by quiet time?      study
    fetch_missing       get what is missing from the PACS, where configured     fetch
    learn_destinations  what does each destination accept?                      delivery
    answer_next         claim a ready study, have it answered, keep the results study -> volume -> pipeline ->
    results deliver_results     send what is due                                        delivery
    confirm_results     prove that it arrived, close the studies                delivery

Each function is safe to call at any time, any number of times, and to be killed in: the ledger says what is
left to do.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import structlog
from pydicom.uid import generate_uid

from dicomnode import fetch
from dicomnode.ahead import Ahead
from dicomnode.answer import StudyAnswer, StudyTask, answer_study, refuse_study
from dicomnode.audit.events import SERIOUS_FAILURE, SUCCESS, Audit, AuditEvent, silent
from dicomnode.compute import Compute
from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.delivery.deliver import lease_s as delivery_lease_s
from dicomnode.delivery.learn import find_outdated, learn_due, settle_config
from dicomnode.errors import LeaseLost, NodeError, OutOfResources, RetryLater, UnreadableInstance, where
from dicomnode.ledger.ledger import Ledger
from dicomnode.records import Conclusion, HeaderReading, Job, Readiness, ReceivedInstance
from dicomnode.settings.config import Config
from dicomnode.settings.rules import Priority, settings_by_rule
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from dicomnode.study.assembly import assemble, judge_study
from dicomnode.study.earlier import find_earlier
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.study.patience import LONGEST_FACTOR, decide
from dicomnode.study.person import agree_on_patient
from dicomnode.study.remembered import RememberedViews, StudyView
from dicomnode.study.rules import RuleChoice, choose_rule, next_begin, read_facts
from dicomnode.study.selection import may_matter
from pipeline.counts import counted

log = structlog.get_logger()

INDEX_BATCH = 500
# In one transaction: reception waits for the ledger meanwhile.
HEADERS_AT_ONCE = 50
LEASE_S = 60.0
# A study that was under way when the node stopped has used up a try without a fault of its own, so more of
# those are allowed.
INTERRUPTIONS = 3
# What the results of one study may take, and how long to wait when there was not so much.
RESULT_ROOM_BYTES = 256 * 2**20
FULL_DISK_WAIT_S = 300.0
# Of several studies that are due the one with the larger number goes first.
PRIORITIES: Mapping[Priority, int] = {"urgent": 10, "normal": 0, "night": -10}


@dataclass(frozen=True)
class Workplace:
    """What the functions of this module work with.

    `owner` names this process in leases; `now` is the clock, `make_uid` names transactions. `is_outdated`
    says that the configuration was replaced meanwhile: what goes on and on ends then, and begins anew.
    """

    config: Config
    ledger: Ledger
    layout: SpoolLayout
    compute: Compute
    owner: str
    now: Callable[[], float] = time.time
    make_uid: Callable[[], str] = generate_uid
    audit: Audit = silent
    views: RememberedViews = field(default_factory=RememberedViews)
    ahead: Ahead = field(default_factory=Ahead)
    is_outdated: Callable[[], bool] = lambda: False


def mend_times(workplace: Workplace) -> int:
    """Make due what waits for a time of a clock that was set back since; returns how much that was."""
    lease_s, learn_s = max(LEASE_S, delivery_lease_s(workplace.config)), workplace.config.delivery.learn_s
    mended = workplace.ledger.times.mend(
        workplace.now(), lease_s=lease_s, fetch_wait_s=fetch.LONGEST_WAIT_S, learn_s=learn_s
    )
    if mended:
        log.warning("clock_was_set_back", count=mended)
    return mended


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


def assess_studies(workplace: Workplace) -> int:
    """Decide for every waiting study whether it is ready; returns how many became so, or may begin."""
    ready, early = 0, dict[int, Hashable]()
    # A header that is not read yet may be of any study: all that is known is how things stood when that
    # instance came.
    unread_since = workplace.ledger.instances.oldest_unread_at()
    known_until = workplace.now() if unread_since is None else min(unread_since, workplace.now())
    waiting = workplace.ledger.jobs.waiting()
    for job in waiting:
        verdict = assess(workplace, job, known_until)
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
    workplace.views.keep_only({job.StudyInstanceUID for job in waiting})
    workplace.ahead.offer(early)
    return ready + len(workplace.ahead.candidates())


def compute_ahead(workplace: Workplace) -> int:
    """Compute the answers to studies that look whole while they still wait; returns how many.

    What is ready goes first.
    """
    computed, candidates = 0, workplace.ahead.candidates()
    jobs = [job for job in workplace.ledger.jobs.waiting() if job.id in candidates] if candidates else []
    workplace.ahead.forget_ended(workplace.layout, workplace.ledger.jobs.open_ids())
    for job in jobs:
        with workplace.compute.slot() as free:
            if not free or workplace.ledger.jobs.has_due(workplace.now()) or not _has_room(workplace):
                break
            try:
                computed += _compute_early(workplace, job)
            except Exception as problem:  # noqa: BLE001  it is computed again and counted when it is ready
                log.info(
                    "study_not_computed_ahead",
                    study_instance_uid=job.StudyInstanceUID,
                    error=type(problem).__name__,
                )
    return computed


def _compute_early(workplace: Workplace, job: Job) -> bool:
    """Compute the answer to one waiting study, as it would be computed if it were ready now."""
    config, _, choice = _config_of(workplace, job)
    if choice.rule is not None and (choice.rule.pipeline == "none" or choice.rule.priority == "night"):
        return False
    task = _task(replace(workplace, config=config), job)
    if len(task.instances) > config.study.maximum_instances:
        return False
    run = partial(_run_ahead, workplace, job)
    return workplace.ahead.compute(workplace.layout, job.id, task, run)


def _config_of(workplace: Workplace, job: Job) -> tuple[Config, dict[str, tuple[str, ...]], RuleChoice]:
    """Return a study's settings, remarks on its destinations, and the rule that was chosen."""
    choice = _choose_rule(workplace, job)
    config = settings_by_rule(workplace.config, choice.rule) if choice.rule else workplace.config
    return *settle_config(config, workplace.ledger), choice


def _run_ahead(workplace: Workplace, job: Job, task: StudyTask) -> StudyAnswer:
    def tick() -> None:
        """Nobody has claimed the study yet: no lease is to be kept."""

    return workplace.compute.run(
        answer_study,
        task,
        name=f"job-{job.id}-ahead",
        limit_s=workplace.config.compute.job_limit_s,
        tick=tick,
    )


def fetch_missing(workplace: Workplace) -> int:
    """Fetch from the PACS what the rules of [fetch] want, and ask it how many images there are.

    Returns how much was done.
    """
    fetched = fetch.fetch_due(workplace.config, workplace.ledger, workplace.now)
    return fetched + fetch.count_due(workplace.config, workplace.ledger, workplace.now)


def learn_destinations(workplace: Workplace) -> int:
    """Ask the destinations that are due what they accept; returns how many were asked.

    What this shows to have been sent in vain is made anew.
    """
    ask_count = learn_due(workplace.ledger, workplace.config, workplace.now)
    for study in find_outdated(workplace.ledger, workplace.config):
        reason = "a destination that gave up on it accepts other objects"
        try:
            workplace.ledger.jobs.retry(study, workplace.now(), rerun=True, reason=reason)
        except RetryLater:
            raise
        except NodeError:
            # Something of it is being sent at this moment: the next round sees it again.
            continue
        log.info("study_answered_again", study_instance_uid=study, reason=reason)
    return ask_count


def answer_next(workplace: Workplace) -> bool:
    """Claim the oldest ready study and answer it.

    Returned is False when there is none, or the node is stopping.
    """
    if not _has_room(workplace):
        return False
    # A name of its own per claim: a lease that ran out while the machine slept is not ours any more, whoever
    # took it.
    workplace = replace(workplace, owner=f"{workplace.owner}/{uuid4().hex[:8]}")
    job = workplace.ledger.jobs.claim(workplace.owner, workplace.now(), LEASE_S)
    if job is None:
        return False
    try:
        _answer(workplace, job)
    except LeaseLost as lost:
        log.info(
            "study_dropped", study_instance_uid=job.StudyInstanceUID, revision=job.revision, reason=str(lost)
        )
    return not workplace.compute.closed


def deliver_results(workplace: Workplace) -> int:
    """Send what is due; returns how many objects were tried."""
    return deliver_due(
        workplace.ledger,
        workplace.layout,
        workplace.config,
        workplace.now,
        owner=workplace.owner,
        stopping=lambda: workplace.compute.closed or workplace.is_outdated(),
        audit=workplace.audit,
    )


def confirm_results(workplace: Workplace) -> int:
    """Ask after what was sent and close the studies whose results have all arrived.

    Returns how many objects were asked after.
    """
    ask_count = confirm_due(workplace.ledger, workplace.config, workplace.now, workplace.make_uid)
    workplace.ledger.jobs.close_delivered(workplace.now())
    return ask_count


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


def _keep_order(path: Path, received_at: float) -> None:
    """Give a file the time at which it last became the newest version.

    A ledger that is made from the spool lists in this order.
    """
    with suppress(OSError):
        if abs(path.stat().st_mtime - received_at) > 1.0:
            os.utime(path, (received_at, received_at))


def _turn_of(workplace: Workplace, job: Job) -> tuple[int, float]:
    """Return the priority that the rules give a study, and before when it is not to be computed."""
    rule = _choose_rule(workplace, job).rule
    if rule is None:
        return 0, workplace.now()
    night = rule.priority == "night"
    begin = next_begin(workplace.config.study.night_hours, workplace.now()) if night else workplace.now()
    return PRIORITIES[rule.priority], begin


def _choose_rule(workplace: Workplace, job: Job) -> RuleChoice:
    """Return the rule of the site that a study falls under; without rules no file is looked at."""
    rules = workplace.config.rules
    if not rules:
        return RuleChoice(None, ())
    instances = workplace.ledger.instances.of_study(job.StudyInstanceUID)
    return choose_rule(rules, read_facts(instances, workplace.layout.root))


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


def _has_room(workplace: Workplace) -> bool:
    """Return whether results can be written.

    Every study would otherwise use up its tries while the disk is full or read-only.
    """
    spool = workplace.layout.root
    if spool.exists() and not os.access(spool, os.W_OK):
        log.error("spool_not_writable", path=str(spool))
        return False
    free_bytes = shutil.disk_usage(workplace.config.storage.root).free
    if free_bytes < min(RESULT_ROOM_BYTES, workplace.config.storage.minimum_free_mb * 2**20):
        log.error("disk_full", free_bytes=free_bytes)
        return False
    return True


def _answer(workplace: Workplace, job: Job) -> None:
    started, remarks = time.monotonic(), dict[str, tuple[str, ...]]()
    try:
        config, remarks, choice = _config_of(workplace, job)
        workplace = replace(workplace, config=config)
        if job.attempts > INTERRUPTIONS * workplace.config.compute.attempts:
            raise RetryLater("the node itself stopped each time while it worked on this study")
        answer = _answer_by(choice, workplace, job)
        _finish(workplace, job, answer, remarks)
    except LeaseLost:
        raise
    except Exception as problem:  # noqa: BLE001  whatever happens to one study must not stop the others
        if not workplace.compute.closed:  # Else the node is stopping: the lease is freed at the next start.
            _try_again(workplace, job, problem, remarks)
        return
    outcome = SERIOUS_FAILURE if answer.outcome is Outcome.FAILED else SUCCESS
    workplace.audit(
        AuditEvent(
            "study-processed", outcome, StudyInstanceUID=job.StudyInstanceUID, detail=answer.outcome.value
        )
    )
    if answer.outcome is Outcome.FAILED:
        # Results that failed their verification have not left; somebody has to look.
        log.error(
            "study_failed",
            study_instance_uid=job.StudyInstanceUID,
            revision=job.revision,
            reason=answer.reason,
        )
    log.info(
        "study_answered",
        study_instance_uid=job.StudyInstanceUID,
        revision=job.revision,
        outcome=answer.outcome.value,
        results=len(answer.results),
        seconds=round(time.monotonic() - started, 1),
    )


def _answer_by(choice: RuleChoice, workplace: Workplace, job: Job) -> StudyAnswer:
    """Have a study answered as its rule says; the answer's detail says which rule that was, and why."""
    if choice.rule is not None and choice.rule.pipeline == "none":
        sentence = f"The rule {choice.rule.name} says that such studies are not processed."
        answer = StudyAnswer(Outcome.EXCLUDED, sentence, (), {"code": "excluded-by-rule"})
    else:
        answer = _compute_answer(workplace, job)
    return replace(answer, detail={**answer.detail, **(choice.record() if choice.checks else {})})


def _compute_answer(workplace: Workplace, job: Job) -> StudyAnswer:
    task = _task(workplace, job)
    if len(task.instances) > workplace.config.study.maximum_instances:
        limit = workplace.config.study.maximum_instances
        sentence = (
            f"The study has {counted(len(task.instances), 'instance')}, "
            f"more than study.maximum_instances ({limit}); raise the limit or send less."
        )
        return refuse_study(task, "too-many-instances", sentence, Outcome.REFUSED)

    def renew() -> None:
        if not workplace.ledger.jobs.renew(job.id, workplace.owner, workplace.now(), LEASE_S):
            raise LeaseLost("newer images re-opened the study, or another worker took it")

    early = workplace.ahead.take(workplace.layout, job.id, task, renew)
    if early is not None:
        return early
    return workplace.compute.run(
        answer_study, task, name=f"job-{job.id}", limit_s=workplace.config.compute.job_limit_s, tick=renew
    )


def _task(workplace: Workplace, job: Job) -> StudyTask:
    task = _bare_task(workplace, job)
    if not workplace.config.pipeline.follow_up:
        return task
    return replace(
        task,
        earlier=find_earlier(
            workplace.ledger, workplace.config.storage.spool, task.StudyInstanceUID, task.instances
        ),
    )


def _bare_task(workplace: Workplace, job: Job) -> StudyTask:
    """Return what the ledger says of a study; no file is read for it."""
    uid, ledger = job.StudyInstanceUID, workplace.ledger
    reports = tuple(ledger.jobs.earlier_reports(uid, job.revision))
    return StudyTask(
        uid,
        job.revision,
        tuple(ledger.instances.of_study(uid)),
        workplace.config,
        tuple(ledger.instances.set_aside(uid)),
        earlier_reports=reports,
    )


def _try_again(
    workplace: Workplace, job: Job, problem: Exception, remarks: Mapping[str, tuple[str, ...]]
) -> None:
    """Back to ready, or, after the last try, answered with a failure report.

    A poison study must not go round for ever.
    """
    uid = job.StudyInstanceUID
    if isinstance(problem, OutOfResources):
        _wait_for_room(workplace, job, problem)
        return
    if isinstance(problem, RetryLater):
        reason = str(problem)
        log.warning("study_not_answered", study_instance_uid=uid, attempt=job.attempts, reason=reason)
    else:
        # The message of a foreign error may quote a header; its type may be shown to everybody.
        reason = f"the program failed with {type(problem).__name__}; please report it with the log"
        log.error(
            "study_crashed",
            study_instance_uid=uid,
            attempt=job.attempts,
            where=where(problem),
            error=type(problem).__name__,
        )
    if job.attempts < workplace.config.compute.attempts:
        delay_s = min(300.0, 5.0 * 2 ** (job.attempts - 1))
        workplace.ledger.jobs.release(
            job.id, workplace.owner, reason, workplace.now(), workplace.now() + delay_s
        )
        return
    sentence = f"Processing failed {counted(job.attempts, 'time')}, at last because {reason}."
    try:
        answer = refuse_study(_bare_task(workplace, job), "processing-failed", sentence, Outcome.FAILED)
    except OutOfResources as full:
        _wait_for_room(workplace, job, full)
        return
    except Exception as bug:  # noqa: BLE001  the study is shown as failed; nothing better can be done
        log.error(  # noqa: TRY400  a full traceback shows values
            "failure_report_failed", study_instance_uid=uid, where=where(bug), error=type(bug).__name__
        )
        workplace.ledger.jobs.fail(job.id, workplace.owner, sentence, workplace.now())
        return
    _finish(workplace, job, answer, remarks)


def _wait_for_room(workplace: Workplace, job: Job, problem: OutOfResources) -> None:
    """Back to ready, however often it was tried: a disk that is full is no fault of the study."""
    log.error(
        "study_not_kept", study_instance_uid=job.StudyInstanceUID, attempt=job.attempts, reason=str(problem)
    )
    workplace.ledger.jobs.release(
        job.id, workplace.owner, str(problem), workplace.now(), workplace.now() + FULL_DISK_WAIT_S
    )


def _finish(
    workplace: Workplace, job: Job, answer: StudyAnswer, remarks: Mapping[str, tuple[str, ...]]
) -> None:
    destinations = {destination.name: destination.form.kinds for destination in workplace.config.destinations}
    detail = {**answer.detail, "destinations": remarks}
    conclusion = Conclusion(answer.outcome, answer.reason, answer.results, destinations, detail)
    workplace.ledger.jobs.finish(job.id, workplace.owner, conclusion, workplace.now())
