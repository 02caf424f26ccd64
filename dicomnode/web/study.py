"""One study: its story as a timeline, its series, findings, results and deliveries.

It also offers what may be ordered for the study.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from dicomnode.audit.events import AuditEvent
from dicomnode.ledger.shown import ResultLine, StudyHistory
from dicomnode.uids import is_uid
from dicomnode.web.pages import render
from dicomnode.web.patients import read_person
from dicomnode.web.result_views import pdf_of, picture_of, report_lines
from dicomnode.web.site import Form, Here, OperatingUser, Reader, Site, Visitor, audit_view
from dicomnode.web.waiting import waiting_for
from pipeline.counts import counted

router = APIRouter(prefix="/studies")

# Findings that the table of series shows already.
_IN_THE_CHOICE = frozenset({"series-used", "series-not-used"})


@dataclass(frozen=True)
class Order:
    """Something that an operator may order: its button, and what it does in a sentence."""

    button: str
    sentence: str


ORDERS: Mapping[str, Order] = {
    "retry": Order(
        "Retry",
        "What was given up or waits for its next try is sent again now; "
        "where nothing waits, the study is answered again.",
    ),
    "answer-again": Order(
        "Answer again",
        "The study is computed anew with today's models and settings, and its results are sent.",
    ),
    "deliver-again": Order(
        "Deliver again",
        "The results that there are go to every destination once more, also where they arrived.",
    ),
    "reopen": Order(
        "Reopen", "The study waits for images until it is complete again, and is then answered anew."
    ),
}


@dataclass(frozen=True)
class TimelineEntry:
    """One happening: when, in which words, how it is coloured, and how often in a row."""

    at: float
    heading: str
    detail: str
    tone: str
    count: int = 1


@router.get("/{StudyInstanceUID}")
def show_study(request: Request, site: Here, visitor: Reader, StudyInstanceUID: str) -> Response:
    """Show a study."""
    history = find_history(site, StudyInstanceUID)
    audit_view(site, visitor, StudyInstanceUID, "page of the study")
    job = history.jobs[-1] if history.jobs else None
    detail: Mapping[str, Any] = job.detail if job else {}
    findings = [finding for finding in detail.get("findings", ()) if finding["code"] not in _IN_THE_CHOICE]
    return render(
        request,
        "study.html",
        history=history,
        job=job,
        person=read_person(site.ledger, site.layout.root, StudyInstanceUID),
        choice=_choice(history, detail),
        findings=findings,
        steps=detail.get("steps", ()),
        lesions=detail.get("lesions", ()),
        calibration=detail.get("calibration", "not calibrated"),
        models=detail.get("models", ()),
        rules=detail.get("rules", ()),
        rule=detail.get("rule"),
        timeline=list(timeline(history)),
        waiting_for=waiting_for(site, job.state, StudyInstanceUID, history.last_received_at) if job else "",
        orders=ORDERS,
        has_viewer=job is not None and any(line.kind.startswith("seg") for line in job.results),
        viewer_url=site.config.web.viewer_url.replace("{StudyInstanceUID}", StudyInstanceUID),
    )


@router.get("/{StudyInstanceUID}/orders/{order}")
def ask_before(
    request: Request, site: Here, visitor: OperatingUser, StudyInstanceUID: str, order: str
) -> Response:
    """Ask whether an order is meant."""
    if order not in ORDERS:
        raise HTTPException(404, "There is no such button.")
    history = find_history(site, StudyInstanceUID)
    return render(request, "order.html", history=history, order=order, wording=ORDERS[order])


@router.post("/{StudyInstanceUID}/orders/{order}")
def carry_out(site: Here, visitor: OperatingUser, form: Form, StudyInstanceUID: str, order: str) -> Response:
    """Do what was ordered; it is audited with who ordered it."""
    if order not in ORDERS:
        raise HTTPException(404, "There is no such button.")
    find_history(site, StudyInstanceUID)
    now, reason = site.now(), f"ordered by {visitor.user_name} on the page"
    if order == "retry":
        site.ledger.jobs.retry(StudyInstanceUID, now, reason=reason)
    elif order == "answer-again":
        site.ledger.jobs.retry(StudyInstanceUID, now, rerun=True, reason=reason)
    elif order == "deliver-again":
        site.ledger.operator.deliver_again(StudyInstanceUID, now)
    else:
        site.ledger.operator.reopen(StudyInstanceUID, now)
    site.audit(
        AuditEvent(
            "study-ordered",
            peer_host=visitor.address,
            StudyInstanceUID=StudyInstanceUID,
            detail=order,
            user=visitor.user_name,
        )
    )
    return RedirectResponse(f"/studies/{StudyInstanceUID}", 303)


@router.get("/{StudyInstanceUID}/results/{SOPInstanceUID}/file")
def download(site: Here, visitor: Reader, StudyInstanceUID: str, SOPInstanceUID: str) -> Response:
    """Hand out a result as the DICOM file that destinations get."""
    line, path = find_result(site, StudyInstanceUID, SOPInstanceUID)
    _audit_download(site, visitor, StudyInstanceUID, line)
    return FileResponse(path, media_type="application/dicom", filename=f"{line.kind}.dcm")


@router.get("/{StudyInstanceUID}/results/{SOPInstanceUID}")
def show_result(
    request: Request, site: Here, visitor: Reader, StudyInstanceUID: str, SOPInstanceUID: str
) -> Response:
    """Show a result: a report as text, a PDF as itself, pictures as pictures, the rest by its header."""
    line, path = find_result(site, StudyInstanceUID, SOPInstanceUID)
    audit_view(site, visitor, StudyInstanceUID, f"result {line.kind}")
    return render(request, "result.html", report=report_lines(path), history_uid=StudyInstanceUID, line=line)


@router.get("/{StudyInstanceUID}/results/{SOPInstanceUID}/pdf")
def show_pdf(site: Here, visitor: Reader, StudyInstanceUID: str, SOPInstanceUID: str) -> Response:
    """Hand out the PDF inside an Encapsulated PDF."""
    line, path = find_result(site, StudyInstanceUID, SOPInstanceUID)
    content = pdf_of(path)
    if content is None:
        raise HTTPException(404, "This result is no PDF.")
    _audit_download(site, visitor, StudyInstanceUID, line)
    disposition = {"Content-Disposition": 'attachment; filename="report.pdf"'}
    return Response(content, media_type="application/pdf", headers=disposition)


@router.get("/{StudyInstanceUID}/results/{SOPInstanceUID}/picture/{frame}")
def show_picture(
    site: Here, visitor: Reader, StudyInstanceUID: str, SOPInstanceUID: str, frame: int
) -> Response:
    """Hand out a frame of a result's pictures, from 1, as PNG."""
    _, path = find_result(site, StudyInstanceUID, SOPInstanceUID)
    content = picture_of(path, frame)
    if content is None:
        raise HTTPException(404, "There is no such picture.")
    audit_view(site, visitor, StudyInstanceUID, "pictures")
    return Response(content, media_type="image/png")


@router.get("/{StudyInstanceUID}/montage")
def show_montage(site: Here, visitor: Reader, StudyInstanceUID: str) -> Response:
    """Hand out the sheet of key slices of the newest answer."""
    history = find_history(site, StudyInstanceUID)
    montage = next((job.detail["montage"] for job in reversed(history.jobs) if "montage" in job.detail), None)
    path = site.layout.root / montage if montage else None
    if path is None or not path.is_file():
        raise HTTPException(404, "There is no picture of this study.")
    audit_view(site, visitor, StudyInstanceUID, "sheet of key slices")
    return FileResponse(path, media_type="image/png")


def find_history(site: Site, StudyInstanceUID: str) -> StudyHistory:
    """Return what is known of a study; 404 where nothing is (any more)."""
    history = site.ledger.history.of_study(StudyInstanceUID) if is_uid(StudyInstanceUID) else None
    if history is None:
        raise HTTPException(404, "This study is not here: it has not come, or it was removed after its time.")
    return history


def find_result(site: Site, StudyInstanceUID: str, SOPInstanceUID: str) -> tuple[ResultLine, Path]:
    """Return a result of a study and its file; of several revisions the newest. 404 where there is none."""
    history = find_history(site, StudyInstanceUID)
    for job in reversed(history.jobs):
        for line in job.results:
            if line.SOPInstanceUID == SOPInstanceUID:
                path = site.layout.root / line.path
                if not path.is_file():
                    raise HTTPException(404, "The file of this result is gone.")
                return line, path
    raise HTTPException(404, "This study has no such result.")


def timeline(history: StudyHistory) -> Iterator[TimelineEntry]:
    """Yield what happened to a study in the order of time."""
    entries = [
        TimelineEntry(
            transfer.since,
            counted(transfer.instances, "image") + " received",
            f"from {transfer.calling_ae} at {transfer.peer_host}, within "
            f"{max(0.0, transfer.until - transfer.since):.0f} s",
            "calm",
        )
        for transfer in history.received
    ]
    entries += [_entry(line.at, line.event, line.detail) for line in history.events]
    in_order = sorted(entries, key=lambda entry: entry.at)
    for _, group in itertools.groupby(in_order, key=lambda entry: (entry.heading, entry.detail, entry.tone)):
        alike = list(group)
        yield replace(alike[0], count=len(alike))


_HEADINGS = {
    "opened": ("Study opened", "calm"),
    "ready": ("Complete: ready to be answered", "calm"),
    "claimed": ("Being computed", "calm"),
    "encoded": ("Answered", "good"),
    "sent": ("Result sent", "good"),
    "confirmed": ("Arrival proved", "good"),
    "done": ("Done: everything has arrived", "good"),
    "released": ("Put back, to be tried again", "warning"),
    "lease-expired": ("The worker fell silent; to be tried again", "warning"),
    "superseded": ("Newer images: the study is answered anew", "warning"),
    "sent-again": ("Its images were sent again after it failed", "warning"),
    "delivery-delayed": ("A delivery did not succeed; it is tried again", "warning"),
    "delivery-given-up": ("A delivery was given up", "bad"),
    "failed": ("Failed", "bad"),
    "withdrawn": ("A result was withdrawn before it left", "warning"),
    "retried": ("Deliveries tried again by the operator", "calm"),
    "replayed": ("To be answered again", "calm"),
    "reopened": ("Reopened by the operator", "calm"),
    "not-confirmable": ("Arrival cannot be proved", "calm"),
    "delivered-again": ("Results to be sent once more", "calm"),
}


def _entry(at: float, event: str, detail: Mapping[str, Any]) -> TimelineEntry:
    heading, tone = _HEADINGS.get(event, (event.replace("-", " ").capitalize(), "calm"))
    if event == "encoded" and detail.get("outcome") in ("refused", "failed"):
        heading, tone = "Answered with a report that says why there is no segmentation", "warning"
    hidden = ("job_id", "delivery_id", "revision")
    texts = [str(detail["reason"])] if detail.get("reason") else []
    texts += [
        f"{key}: {text}"
        for key, text in detail.items()
        if key not in (*hidden, "reason") and not isinstance(text, dict | list)
    ]
    return TimelineEntry(at, heading, "; ".join(texts), tone)


def _choice(history: StudyHistory, detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row a series: what came, and what the choice made of it."""
    rows = detail.get("choice") or detail.get("evidence", {}).get("choice", ())
    # A series that holds several stacks has one row each, named UID/number.
    of_series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_series.setdefault(row["SeriesInstanceUID"].partition("/")[0], []).append(row)
    table: list[dict[str, Any]] = []
    for series in history.series:
        rows_of_series = of_series.get(series.SeriesInstanceUID) or [{}]
        table += [{"series": series, "choice": {**_NOT_JUDGED, **row}} for row in rows_of_series]
    return table


_NOT_JUDGED = {"plane": "", "spacing_mm": None, "use": "", "role": None, "reason": ""}


def _audit_download(site: Site, visitor: Visitor, StudyInstanceUID: str, line: ResultLine) -> None:
    site.audit(
        AuditEvent(
            "result-downloaded",
            peer_host=visitor.address,
            StudyInstanceUID=StudyInstanceUID,
            instances={line.SOPClassUID: 1},
            user=visitor.user_name,
        )
    )
