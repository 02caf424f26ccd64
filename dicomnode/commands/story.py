"""`dicomnode status`, `why` and `retry`: the ledger's story in words. Times are local, for people; `--json` gives it all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from dicomnode.commands.terminal import console, print_rows
from dicomnode.errors import NodeError
from dicomnode.settings.config import Config

if TYPE_CHECKING:
    from dicomnode.ledger.ledger import Ledger

STATUS_COLUMNS = ("study", "received", "images", "state", "outcome", "reason", "deliveries")


def show_status(config: Config, as_json: bool) -> None:
    """Print the studies and where each stands."""
    from dicomnode.processes.app import open_ledger

    with closing(open_ledger(config)) as ledger:
        if as_json:
            typer.echo(json.dumps({"health": ledger.health(), "studies": ledger.studies()}, indent=2))
        else:
            print_rows(STATUS_COLUMNS, status_rows(ledger), as_json=False)


def show_why(config: Config, study: str, as_json: bool) -> None:
    """Print what happened to a study."""
    from dicomnode.processes.app import open_ledger

    with closing(open_ledger(config)) as ledger:
        history = ledger.study_history(find_study(ledger, study))
    if as_json:
        typer.echo(json.dumps(history, indent=2, default=str))
    else:
        for line in story(history):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def retry(config: Config, study: str, as_json: bool) -> None:
    """Send again what was given up, or else answer the study again."""
    from dicomnode.processes.app import open_ledger

    with closing(open_ledger(config)) as ledger:
        job = ledger.retry_job(find_study(ledger, study), time.time())
    if as_json:
        typer.echo(json.dumps({"StudyInstanceUID": job.StudyInstanceUID, "revision": job.revision, "state": job.state.value}))
    else:
        console.print(f"revision {job.revision} is {job.state.value}; `dicomnode why` tells what becomes of it", highlight=False)


def status_rows(ledger: Ledger) -> list[list[str]]:
    """Return one row per study, the last received first."""
    rows = []
    for study in ledger.studies():
        job = study["job"] or {}
        delivered = ", ".join(f"{count} {state}" for state, count in sorted(study["deliveries"].items()))
        cells = (str(study["instances"]), job.get("state", ""), job.get("outcome") or "", job.get("reason", ""))
        rows.append([study["StudyInstanceUID"], clock(study["last_received_at"]), *cells, delivered])
    return rows


def find_study(ledger: Ledger, text: str) -> str:
    """Return the Study Instance UID that is `text` or ends in it; `NodeError` when none or several do."""
    uids = [study["StudyInstanceUID"] for study in ledger.studies(limit=100_000)]
    if text in uids:
        return text
    found = [uid for uid in uids if uid.endswith(text)]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise NodeError(f"{len(found)} studies end in {text}; give more of the UID")
    raise NodeError(
        f"no study ends in {text}: the node has not received it, or retention removed it; `dicomnode status` lists what is there"
    )


def story(history: Mapping[str, Any]) -> Iterator[str]:
    """Yield the story of one study as lines: what came, what was decided and why, what was sent."""
    yield f"Study {history['StudyInstanceUID']}"
    yield from _received(history)
    for job in history["jobs"]:
        yield from _job(job)
    yield from _deliveries(history["deliveries"])
    yield "Diary"
    for event in history["events"]:
        detail = ", ".join(f"{key}={value}" for key, value in event["detail"].items() if not isinstance(value, (dict, list)))
        yield f"  {clock(event['at'])}  {event['what']}{': ' + detail if detail else ''}"


def clock(seconds: float | None) -> str:
    """Return a time of the ledger for people."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds is not None else "-"


def _received(history: Mapping[str, Any]) -> Iterator[str]:
    yield "Received"
    for transfer in history["received"]:
        span = f"{clock(transfer['since'])} to {clock(transfer['until'])}"
        yield f"  {transfer['instances']} instances from {transfer['calling_ae']} at {transfer['peer_host']}, {span}"
    for series in history["series"]:
        conflict = f", {series['conflicts']} kept beside: same UID, other bytes" if series["conflicts"] else ""
        yield f"  series {series['SeriesNumber']} {series['Modality']}: {series['instances']} instances{conflict} ({series['SeriesInstanceUID']})"
    for instance in history.get("unreadable", ()):
        yield f"  unreadable: {instance['SOPInstanceUID']}: {instance['reason']}"


def _job(job: Mapping[str, Any]) -> Iterator[str]:
    outcome = f", {job['outcome']}" if job["outcome"] else ""
    yield f"Revision {job['revision']}: {job['state']}{outcome} ({job['attempts']} tries): {job['reason']}"
    detail = job["detail"]
    for uid, reason in detail.get("selection", {}).items():
        yield f"  series ...{uid[-12:]}: {reason}"
    yield from _findings(detail.get("findings", ()))
    for name, remarks in detail.get("destinations", {}).items():
        yield from (f"  to {name}: {remark}" for remark in remarks)
    if detail.get("steps"):
        yield "  steps: " + ", ".join(f"{step['name']} {step['seconds']:.1f} s" for step in detail["steps"])
    for lesion in detail.get("lesions", ()):
        yield f"  lesion {lesion['label']}: {lesion['volume_ml']:.2f} ml"
    for result in job["results"]:
        yield f"  {result['kind']} {result['SOPInstanceUID']}"


def _findings(findings: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for finding in findings:
        yield f"  {finding['grade']}: {finding['message']} [{finding['code']}]"


def _deliveries(deliveries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if deliveries:
        yield "Deliveries"
    for delivery in deliveries:
        waits = f", next try {clock(delivery['next_attempt_at'])}" if delivery["state"] == "due" else ""
        if delivery["confirm_at"] is not None:
            waits = f", to be proved {clock(delivery['confirm_at'])}"
        if delivery["resends"]:
            waits += f", sent again {delivery['resends']} times"
        tries = f"{delivery['attempts']} tries{waits}"
        yield f"  {delivery['kind']} to {delivery['destination']}: {delivery['state']} ({tries}) {delivery['last_status']}"
