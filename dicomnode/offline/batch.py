"""Many cases one after the other or side by side, each in a process of its own.

A worker process may die without harm to the other cases.
"""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

from dicomnode.answer import build_recipe
from dicomnode.compute import Compute
from dicomnode.errors import RetryLater
from dicomnode.offline.bids.derivatives import (
    IGNORED,
    describe_dataset,
    read_table,
    table_text,
    write_dataset_files,
)
from dicomnode.offline.bids.place import case_folder, remove_partial, replace_file
from dicomnode.offline.cases import OfflineAnswer, OfflineCase, OfflineTask, answer_case, find_finished
from dicomnode.results.words.lesion_table import COLUMNS
from dicomnode.results.words.sentences import WARNING
from dicomnode.settings.config import Config
from dicomnode.states import Outcome
from pipeline.counts import counted

Progress = Callable[[str], None]
Report = Callable[[OfflineAnswer], None]

CASE_COLUMNS = ("participant_id", "session_id", "outcome", "result", "seconds")


def answer_cases(
    tasks: Sequence[OfflineTask], jobs: int, overwrite: bool, progress: Progress, report: Report
) -> list[OfflineAnswer]:
    """Answer every case that an earlier run did not answer already; `report` is told of each as it is done.

    One case alone runs in this process and tells its steps to `progress`; several run in `jobs` worker
    processes.
    """
    finished = [] if overwrite else [task for task in tasks if not task.case.problem and find_finished(task)]
    answers = [
        OfflineAnswer(task.case.label, task.case.name, "skipped", "answered by an earlier run")
        for task in finished
    ]
    for answer in answers:
        report(answer)
    unfinished = [task for task in tasks if task not in finished]
    if len(unfinished) == 1:
        answers.append(answer_case(unfinished[0], progress))
        report(answers[-1])
    elif unfinished:
        answers += _side_by_side(unfinished, min(jobs, len(unfinished)), progress, report)
    if tasks:
        remove_partial(tasks[0].output)
    return sorted(answers, key=lambda answer: answer.label.stem)


def open_output(config: Config, output: Path, raw: Path | None) -> None:
    """Make the derivative dataset's own files; `raw` is the dataset that the cases come from.

    Raises
    ------
    PipelineError
        A configured bundle is missing.
    """
    recipe = build_recipe(config)
    links = {"raw": os.path.relpath(raw, output)} if raw else {}
    description = describe_dataset((recipe.lesion.identity, recipe.brain.identity), links)
    readme = (
        f"Stroke-lesion outlines, made by dicomnode. {WARNING}.\n\n"
        "sub-*/anat: lesion mask (label-L_mask), lesion probability (label-L_probseg), "
        "numbered lesions with their measurements "
        "(desc-lesions_dseg, .nii.gz and .tsv), brain (desc-brain_mask).\n"
        "sub-*/figures: a picture of each answer. "
        "sub-*/dicom: DICOM-SEG and report, where the images were DICOM.\n"
        "cases.tsv: what became of each case. lesions.csv: every lesion of every case.\n"
    )
    write_dataset_files(output, description, readme, IGNORED)


def write_tables(output: Path, answers: Sequence[OfflineAnswer]) -> None:
    """Write `cases.tsv`, in which cases of earlier runs stay, and `lesions.csv` over all cases."""
    rows = {(row["participant_id"], row["session_id"]): row for row in read_table(output / "cases.tsv")}
    for answer in answers:
        key = (
            f"sub-{answer.label.subject}",
            f"ses-{answer.label.session}" if answer.label.session else "n/a",
        )
        if answer.outcome != "skipped" or key not in rows:
            values = (*key, answer.outcome, f"{answer.name}: {answer.summary}", f"{answer.seconds:.1f}")
            rows[key] = dict(zip(CASE_COLUMNS, values, strict=True))
    replace_file(output / "cases.tsv", table_text([rows[key] for key in sorted(rows)], CASE_COLUMNS))
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, ("case", *COLUMNS), extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for path in sorted(output.glob("sub-*/**/anat/*_desc-lesions_dseg.tsv")):
        stem = path.name.removesuffix("_desc-lesions_dseg.tsv")
        for row in read_table(path):
            table.writerow(
                {
                    name: "" if value == "n/a" else value
                    for name, value in {"case": stem, "label": row["index"], **row}.items()
                }
            )
    replace_file(output / "lesions.csv", buffer.getvalue())


def _side_by_side(
    tasks: Sequence[OfflineTask], jobs: int, progress: Progress, report: Report
) -> list[OfflineAnswer]:
    settings = tasks[0].config.compute
    progress(f"starting {counted(jobs, 'worker process', 'worker processes')}")
    answers = []
    stop = threading.Event()
    with closing(Compute(settings, workers=jobs)) as compute, ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_answer_in_worker, compute, task, stop, progress) for task in tasks]
        try:
            for future in as_completed(running):
                answers.append(future.result())
                report(answers[-1])
        except BaseException:
            stop.set()
            for future in running:
                future.cancel()
            raise
    return answers


def _answer_in_worker(
    compute: Compute, task: OfflineTask, stop: threading.Event, progress: Progress
) -> OfflineAnswer:
    case: OfflineCase = task.case

    def tick() -> None:
        if stop.is_set():
            raise RetryLater("the run was stopped")

    progress(case.name)
    try:
        return compute.run(
            answer_case,
            task,
            name=case.label.stem,
            limit_s=task.config.compute.job_limit_s,
            tick=tick,
            tick_s=1.0,
        )
    except RetryLater as problem:
        with case_folder(task.output, case.label):
            pass  # An answer of an earlier run, with other settings, must not stand for this one.
        return OfflineAnswer(case.label, case.name, Outcome.FAILED.value, str(problem))
