"""`dicomnode status`, `why` and `retry`: the ledger's story in words. Times are local, for people; `--json` gives it all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from dicomnode.errors import NodeError
from dicomnode.ledger.ledger import Ledger

STATUS_COLUMNS = ("study", "received", "images", "state", "outcome", "reason", "deliveries")


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
