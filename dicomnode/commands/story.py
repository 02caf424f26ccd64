"""`dicomnode status`, `why` and `retry`: the ledger's story in words.

Times are local, for people; `--json` gives it all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dicomnode.commands.terminal import console, print_rows
from dicomnode.errors import NodeError
from dicomnode.settings.config import Config
from pipeline.counts import counted

if TYPE_CHECKING:
    from dicomnode.ledger.ledger import Ledger
    from dicomnode.ledger.shown import DeliveryLine, InstanceLine, JobStory, StudyHistory

STATUS_COLUMNS = ("study", "received", "images", "state", "outcome", "reason", "deliveries")
NO_STUDY = "no study"
"""The state that `status` shows for instances that can be of no study."""

# Findings that the lines of the choice show already.
_IN_THE_CHOICE = frozenset({"series-used", "series-not-used"})
# Instances of no study are shown one line a sender, a reason and an hour.
_GROUPED_S = 3600.0


def show_status(config: Config, as_json: bool) -> None:
    """Print the studies and where each stands."""
    from dicomnode.ledger.shown import plain
    from dicomnode.processes.app import open_ledger
    from dicomnode.spool.layout import SpoolLayout

    with closing(open_ledger(config)) as ledger:
        damaged = sorted(SpoolLayout(config.storage.spool).aside.glob("*"))
        if as_json:
            history = ledger.history
            overview = {
                "health": history.health(),
                "studies": history.studies(),
                "without_study": history.without_study(),
            }
            typer.echo(
                json.dumps({**plain(overview), "set_aside": [path.as_posix() for path in damaged]}, indent=2)
            )
        else:
            print_rows(STATUS_COLUMNS, [*status_rows(ledger), *map(_damaged_row, damaged)], as_json=False)


def show_why(config: Config, uid: str, as_json: bool) -> None:
    """Print what happened to a study, or to an instance that can be of no study."""
    from dicomnode.ledger.shown import plain
    from dicomnode.processes.app import open_ledger

    with closing(open_ledger(config)) as ledger:
        strays = ledger.history.instances_ending_in(uid)
        if strays and not ledger.history.studies_ending_in(uid):
            overview, lines = plain({"without_study": strays}), stray_story(strays)
        else:
            history = ledger.history.of_study(find_study(ledger, uid))
            if history is None:
                raise NodeError(f"retention removed the study that ends in {uid} at this moment")
            overview, lines = plain(history), story(history)
    if as_json:
        typer.echo(json.dumps(overview, indent=2, default=str))
    else:
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def retry(config: Config, uid: str, as_json: bool) -> None:
    """Send again what was given up, or else answer the study again."""
    from dicomnode.processes.app import open_ledger

    with closing(open_ledger(config)) as ledger:
        job = ledger.jobs.retry(find_study(ledger, uid), time.time())
    if as_json:
        typer.echo(
            json.dumps(
                {"StudyInstanceUID": job.StudyInstanceUID, "revision": job.revision, "state": job.state.value}
            )
        )
    else:
        console.print(
            f"revision {job.revision} is {job.state.value}; `dicomnode why` shows what becomes of it",
            highlight=False,
        )


def status_rows(ledger: Ledger) -> list[list[str]]:
    """Return one row per study, and one per group of instances that can be of no study.

    The last received first.
    """
    rows = []
    for study in ledger.history.studies():
        delivered = ", ".join(f"{count} {state}" for state, count in sorted(study.deliveries.items()))
        job = study.job
        cells = (job.state, job.outcome or "", job.reason) if job else ("", "", "")
        rows.append(
            (study.last_received_at, [study.StudyInstanceUID, str(study.instances), *cells, delivered])
        )
    for group in _group(ledger.history.without_study()):
        newest = group[0]
        rows.append(
            (newest.received_at, [newest.SOPInstanceUID, str(len(group)), NO_STUDY, "", newest.reason, ""])
        )
    newest_first = sorted(rows, key=lambda row: row[0], reverse=True)
    return [[cells[0], clock(received_at), *cells[1:]] for received_at, cells in newest_first]


def _damaged_row(path: Path) -> list[str]:
    reason = (
        "its bytes no longer fit the hash in its name, or the ledger could not hold it; send the study again"
    )
    return [f"aside/{path.name}", clock(path.stat().st_mtime), "1", "set aside", "", reason, ""]


def find_study(ledger: Ledger, text: str) -> str:
    """Return the Study Instance UID that is `text` or ends in it; `NodeError` when none or several do."""
    uids = ledger.history.studies_ending_in(text)
    if len(uids) == 1:
        return uids[0]
    if uids:
        raise NodeError(f"{len(uids)} studies or more end in {text}; give more of the UID")
    if ledger.history.instances_ending_in(text):
        raise NodeError(f"{text} is an instance that can be of no study; `dicomnode why {text}` says why")
    raise NodeError(
        f"no study ends in {text}: the node has not received it, or retention removed it; "
        "`dicomnode status` lists what is there"
    )


def story(history: StudyHistory) -> Iterator[str]:
    """Yield the story of one study as lines: what came, what was decided and why, what was sent."""
    yield f"Study {history.StudyInstanceUID}"
    yield from _received(history)
    for job in history.jobs:
        yield from _job(job)
    yield from _deliveries(history.deliveries)
    yield "Diary"
    for line in history.events:
        detail = ", ".join(
            f"{key}={value}" for key, value in line.detail.items() if not isinstance(value, (dict, list))
        )
        yield f"  {clock(line.at)}  {line.event}{': ' + detail if detail else ''}"


def stray_story(strays: Sequence[InstanceLine]) -> Iterator[str]:
    """Yield the story of instances that can be of no study.

    Who sent them, why they are of none, where they are.
    """
    for stray in strays:
        yield f"Instance {stray.SOPInstanceUID} (SOP class {stray.SOPClassUID}), of no study"
        yield f"  received from {stray.calling_ae} at {stray.peer_host} at {clock(stray.received_at)}"
        yield f"  {stray.reason}"
        yield (
            f"  kept in the spool as {stray.path} until retention removes it; correct it at the "
            "sender and send it again"
        )


def clock(seconds: float | None) -> str:
    """Return a time of the ledger for people."""
    return (
        datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        if seconds is not None
        else "-"
    )


def _group(strays: Sequence[InstanceLine]) -> list[list[InstanceLine]]:
    groups: dict[tuple[str, str, str, int], list[InstanceLine]] = {}
    for stray in strays:
        key = (stray.calling_ae, stray.peer_host, stray.reason, int(stray.received_at // _GROUPED_S))
        groups.setdefault(key, []).append(stray)
    return list(groups.values())


def _received(history: StudyHistory) -> Iterator[str]:
    yield "Received"
    for transfer in history.received:
        span = f"{clock(transfer.since)} to {clock(transfer.until)}"
        instances = counted(transfer.instances, "instance")
        yield f"  {instances} from {transfer.calling_ae} at {transfer.peer_host}, {span}"
    for series in history.series:
        versions = (
            f", {series.conflicts} kept next to them: same UID, other bytes" if series.conflicts else ""
        )
        number = "" if series.SeriesNumber is None else f" {series.SeriesNumber}"
        name = series.SeriesDescription or series.ProtocolName
        described = f" {name!r}" if name else ""
        instances = counted(series.instances, "instance")
        yield f"  series{number} {series.Modality}{described}: {instances}{versions}"
        yield f"    {series.SeriesInstanceUID}"
    for instance in history.unreadable:
        yield f"  unreadable: {instance.SOPInstanceUID}: {instance.reason}"


def _job(job: JobStory) -> Iterator[str]:
    outcome = f", {job.outcome}" if job.outcome else ""
    tries = counted(job.attempts, "try", "tries")
    yield f"Revision {job.revision}: {job.state}{outcome} ({tries}): {job.reason}"
    detail = job.detail
    yield from _rules(detail)
    yield from _choice(detail.get("choice") or detail.get("evidence", {}).get("choice", ()))
    yield from _findings(
        [finding for finding in detail.get("findings", ()) if finding["code"] not in _IN_THE_CHOICE]
    )
    for name, remarks in detail.get("destinations", {}).items():
        yield from (f"  to {name}: {remark}" for remark in remarks)
    if detail.get("steps"):
        yield "  steps: " + ", ".join(f"{step['name']} {step['seconds']:.1f} s" for step in detail["steps"])
    for lesion in detail.get("lesions", ()):
        # Answers of versions before 0.5.0 have the probability alone, which was their certainty.
        certainty = lesion.get("certainty", lesion["mean_probability"])
        yield f"  lesion {lesion['label']}: {lesion['volume_ml']:.2f} ml, certainty {100 * certainty:.0f} %"
    if detail.get("lesions"):
        yield f"  certainty: {detail.get('calibration', 'not calibrated')}"
    for result in job.results:
        yield f"  {result.kind} {result.SOPInstanceUID}"


def _rules(detail: Mapping[str, Any]) -> Iterator[str]:
    """Yield which rule of the site a study was answered by, and why not by the others."""
    for line in detail.get("rules", ()):
        if line["name"] == detail.get("rule"):
            yield f"  rule {line['name']}: answered by it"
        elif line["matches"]:
            yield f"  rule {line['name']}: it matches, and an earlier one came first"
        else:
            yield f"  rule {line['name']}: not this one: {line['sentence']}"


def _choice(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what each series of the study was used as, or why it was not; the rows are `Selection.record`."""
    for row in rows:
        name = f"series {'' if row['SeriesNumber'] is None else row['SeriesNumber']}".rstrip()
        name = f"stack {row['stack_number']} of {name}" if row.get("stack_number") else name
        described = f" {row['SeriesDescription']!r}" if row["SeriesDescription"] else ""
        apart = "" if row["spacing_mm"] is None else f", {row['spacing_mm']:.2f} mm apart"
        slices = counted(row["slice_count"], "slice")
        extent = ", ".join(text for text in (row["acquired"], row["plane"], f"{slices}{apart}") if text)
        use = f"used as {row['role'].upper()}" if row["use"] == "used" else "not used"
        yield f"  {name}{described} ({extent}): {use}: {row['reason']}"


def _findings(findings: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding['grade']}: {finding['message']} [{finding['code']}]"


def _deliveries(deliveries: Sequence[DeliveryLine]) -> Iterator[str]:
    if deliveries:
        yield "Deliveries"
    for delivery in deliveries:
        waits = f", next try {clock(delivery.next_attempt_at)}" if delivery.state == "due" else ""
        if delivery.confirm_at is not None:
            waits = f", to be proved {clock(delivery.confirm_at)}"
        if delivery.resends:
            waits += f", sent again {counted(delivery.resends, 'time')}"
        tries = f"{counted(delivery.attempts, 'try', 'tries')}{waits}"
        yield (
            f"  {delivery.kind} to {delivery.destination}: {delivery.state} ({tries}) {delivery.last_status}"
        )
