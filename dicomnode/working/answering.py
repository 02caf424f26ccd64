"""From a ready study to its results in the spool: claimed, computed, and tried again where that failed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from uuid import uuid4

import structlog

from dicomnode.answer import StudyAnswer, StudyTask, answer_study, refuse_study
from dicomnode.audit.events import SERIOUS_FAILURE, SUCCESS, AuditEvent
from dicomnode.delivery.learn import settle_config
from dicomnode.errors import LeaseLost, OutOfResources, RetryLater, where
from dicomnode.records import Conclusion, Job
from dicomnode.settings.config import Config
from dicomnode.settings.rules import settings_by_rule
from dicomnode.states import Outcome
from dicomnode.study.earlier import find_earlier
from dicomnode.study.rules import RuleChoice
from dicomnode.working.workplace import Workplace, rule_of
from pipeline.counts import counted

log = structlog.get_logger()

LEASE_S = 60.0
# A study that was under way when the node stopped has used up a try without a fault of its own, so more of
# those are allowed.
INTERRUPTIONS = 3
# What the results of one study may take, and how long to wait when there was not so much.
RESULT_ROOM_BYTES = 256 * 2**20
FULL_DISK_WAIT_S = 300.0


def compute_ahead(workplace: Workplace) -> int:
    """Compute the answers to studies that look whole while they still wait; returns how many.

    What is ready goes first.
    """
    computed, candidates = 0, workplace.ahead.candidates()
    jobs = [job for job in workplace.ledger.jobs.waiting() if job.id in candidates] if candidates else []
    workplace.ahead.forget_ended(workplace.layout, workplace.ledger.jobs.open_ids())
    for job in jobs:
        with workplace.compute.slot() as free:
            if not free or has_due(workplace) or not _has_room(workplace):
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
    try:
        return workplace.ahead.compute(workplace.layout, job.id, task, run)
    finally:
        _note_step(workplace, job, None)


def _run_ahead(workplace: Workplace, job: Job, task: StudyTask) -> StudyAnswer:
    def tick() -> None:
        """Nobody has claimed the study yet: no lease is to be kept."""

    return _compute(workplace, job, task, f"job-{job.id}-ahead", tick)


def _compute(
    workplace: Workplace, job: Job, task: StudyTask, name: str, tick: Callable[[], None]
) -> StudyAnswer:
    """Answer a study in a worker; the steps are noted as they begin."""
    return workplace.compute.run(
        answer_study,
        task,
        name=name,
        limit_s=workplace.config.compute.job_limit_s,
        tick=tick,
        progress=partial(_note_step, workplace, job),
    )


def _note_step(workplace: Workplace, job: Job, step: str | None) -> None:
    """Note the step that a computation is in, for those who look on; nothing waits for it."""
    with suppress(RetryLater):
        workplace.ledger.jobs.note_step(job.id, step, workplace.now())


def has_due(workplace: Workplace) -> bool:
    """Return whether a study is ready to be answered."""
    return workplace.ledger.jobs.has_due(workplace.now())


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


def _config_of(workplace: Workplace, job: Job) -> tuple[Config, dict[str, tuple[str, ...]], RuleChoice]:
    """Return a study's settings, remarks on its destinations, and the rule that was chosen."""
    choice = rule_of(workplace, job)
    config = settings_by_rule(workplace.config, choice.rule) if choice.rule else workplace.config
    return *settle_config(config, workplace.ledger), choice


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
    return _compute(workplace, job, task, f"job-{job.id}", renew)


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


def _finish(
    workplace: Workplace, job: Job, answer: StudyAnswer, remarks: Mapping[str, tuple[str, ...]]
) -> None:
    destinations = {destination.name: destination.form.kinds for destination in workplace.config.destinations}
    detail = {**answer.detail, "destinations": remarks}
    conclusion = Conclusion(answer.outcome, answer.reason, answer.results, destinations, detail)
    workplace.ledger.jobs.finish(job.id, workplace.owner, conclusion, workplace.now())


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
