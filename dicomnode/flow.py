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
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import structlog
from pydicom.uid import generate_uid

from dicomnode import fetch
from dicomnode.answer import StudyAnswer, StudyTask, answer_study, refuse_study
from dicomnode.audit.events import SERIOUS_FAILURE, SUCCESS, Audit, AuditEvent, silent
from dicomnode.compute import Compute
from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.delivery.deliver import lease_s as delivery_lease_s
from dicomnode.delivery.learn import find_outdated, learn_due, settle_config
from dicomnode.errors import LeaseLost, NodeError, OutOfResources, RetryLater, UnreadableInstance, where
from dicomnode.ledger.ledger import Ledger
from dicomnode.records import Conclusion, Job, Readiness
from dicomnode.settings.config import Config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from dicomnode.study.assembly import assemble, readiness
from dicomnode.study.earlier import find_earlier
from dicomnode.study.headers import is_answerable, read_header
from dicomnode.study.person import agree_on_patient

log = structlog.get_logger()

INDEX_BATCH = 500
LEASE_S = 60.0
# A study that was under way when the node stopped has used up a try without a fault of its own, so more of
# those are allowed.
INTERRUPTIONS = 3
# What the results of one study may take, and how long to wait when there was not so much.
RESULT_ROOM_BYTES = 256 * 2**20
FULL_DISK_WAIT_S = 300.0


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
        try:
            workplace.ledger.instances.record_header(
                instance_id, header, workplace.now(), reopens=is_answerable(header)
            )
        except RetryLater:
            raise
        except Exception as bug:  # noqa: BLE001  an instance that cannot be listed must not stand in the way of all that come after it
            reason = f"unreadable: the header cannot be listed ({type(bug).__name__})"
            log.error(  # noqa: TRY400
                "instance_not_listed",
                sop_instance_uid=received.SOPInstanceUID,
                where=where(bug),
                error=type(bug).__name__,
            )
            workplace.ledger.instances.record_unreadable(instance_id, reason, workplace.now())
            continue
        arrived[header.StudyInstanceUID, received.calling_ae, received.peer_host][received.SOPClassUID] += 1
    for (study, calling_ae, host), classes in arrived.items():
        workplace.audit(AuditEvent("instances-received", SUCCESS, calling_ae, host, study, classes))
    return len(rows)


def assess_studies(workplace: Workplace) -> int:
    """Decide for every waiting study whether it is ready; returns how many became so."""
    ready = 0
    # A header that is not read yet may be of any study: all that is known is how things stood when that
    # instance came.
    unread_since = workplace.ledger.instances.oldest_unread_at()
    known_until = workplace.now() if unread_since is None else min(unread_since, workplace.now())
    for job in workplace.ledger.jobs.waiting():
        verdict = _assess(workplace, job, known_until)
        if verdict.ready and not _waits_for_fetch(workplace, job, verdict, unread=unread_since is not None):
            workplace.ledger.jobs.mark_ready(job.id, verdict.reason, verdict.evidence, workplace.now())
            log.info(
                "study_ready",
                study_instance_uid=job.StudyInstanceUID,
                revision=job.revision,
                reason=verdict.reason,
            )
            ready += 1
    return ready


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
    """Claim the oldest ready study and answer it; returns False when there is none, or the node is stopping."""
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


def _assess(workplace: Workplace, job: Job, known_until: float) -> Readiness:
    """Judge one study; one that cannot be judged is taken when it is quiet.

    It is then answered, and holds up no other.
    """
    uid = job.StudyInstanceUID
    last_received_at = workplace.ledger.instances.last_received_at(uid)
    try:
        instances = workplace.ledger.instances.of_study(uid)
        study = assemble(uid, instances)
        listed = (
            workplace.ledger.fetches.counts(uid, workplace.config.study.settle_s)
            if workplace.config.fetch.counts
            else None
        )
        verdict = readiness(
            study, workplace.config.selection, workplace.config.study, last_received_at, known_until, listed
        )
        quiet_at = last_received_at + workplace.config.study.quiet_s
        if verdict.ready and known_until < quiet_at and not agree_on_patient(instances):
            reason = "its images do not agree on patient and order; the rest of a correction may follow"
            return replace(verdict, ready=False, reason=reason, due_at=quiet_at)
        return verdict
    except RetryLater:
        raise
    except Exception as bug:  # noqa: BLE001  whatever is in one study must not stop the others
        log.error("assessment_crashed", study_instance_uid=uid, where=where(bug), error=type(bug).__name__)  # noqa: TRY400
        quiet = known_until - last_received_at >= workplace.config.study.quiet_s
        return Readiness(
            quiet, f"Whether it is complete cannot be judged ({type(bug).__name__}); taken as it is."
        )


def _keep_order(path: Path, received_at: float) -> None:
    """Give a file the time at which it last became the newest version.

    A ledger that is made from the spool lists in this order.
    """
    with suppress(OSError):
        if abs(path.stat().st_mtime - received_at) > 1.0:
            os.utime(path, (received_at, received_at))


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
        config, remarks = settle_config(workplace.config, workplace.ledger)
        workplace = replace(workplace, config=config)
        if job.attempts > INTERRUPTIONS * workplace.config.compute.attempts:
            raise RetryLater("the node itself stopped each time while it worked on this study")
        answer = _compute_answer(workplace, job)
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


def _compute_answer(workplace: Workplace, job: Job) -> StudyAnswer:
    task = _task(workplace, job)
    if len(task.instances) > workplace.config.study.maximum_instances:
        limit = workplace.config.study.maximum_instances
        sentence = (
            f"The study has {len(task.instances)} instances, more than study.maximum_instances "
            f"({limit}); raise the limit or send less."
        )
        return refuse_study(task, "too-many-instances", sentence, Outcome.REFUSED)

    def renew() -> None:
        if not workplace.ledger.jobs.renew(job.id, workplace.owner, workplace.now(), LEASE_S):
            raise LeaseLost("newer images re-opened the study, or another worker took it")

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
    sentence = f"Processing failed {job.attempts} times, at last because {reason}."
    try:
        answer = refuse_study(_bare_task(workplace, job), "processing-failed", sentence, Outcome.FAILED)
    except OutOfResources as full:
        _wait_for_room(workplace, job, full)
        return
    except Exception as bug:  # noqa: BLE001  the study is shown as failed; nothing better can be done
        log.error("failure_report_failed", study_instance_uid=uid, where=where(bug), error=type(bug).__name__)  # noqa: TRY400  a full traceback shows values
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
