"""The list of studies: filters, pages, and the search by patient, which never stands in an address."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from dicomnode.audit.events import AuditEvent
from dicomnode.ledger.listing import Cursor, StudyFilter
from dicomnode.ledger.shown import StudyLine
from dicomnode.states import DeliveryState, JobState, Outcome
from dicomnode.uids import is_uid
from dicomnode.web.pages import render
from dicomnode.web.site import Form, Here, Reader, site_of
from dicomnode.web.waiting import reasons_of
from pipeline.counts import counted

router = APIRouter()

PAGE_LINES = 50
_Word = TypeVar("_Word", bound=StrEnum)
_STATES = [state.value for state in JobState if state is not JobState.SUPERSEDED]


@router.get("/")
def show_studies(
    request: Request,
    site: Here,
    visitor: Reader,
    state: str = "",
    outcome: str = "",
    delivery: str = "",
    uid: str = "",
    ae: str = "",
    since: str = "",
    until: str = "",
    after: str = "",
) -> Response:
    """Show a page of studies that pass the filters."""
    typed = {
        "state": state,
        "outcome": outcome,
        "delivery": delivery,
        "uid": uid,
        "ae": ae,
        "since": since,
        "until": until,
    }
    lines = site.ledger.listing.page(_filter_of(typed), PAGE_LINES + 1, _cursor_of(after))
    following = _cursor_text(lines[PAGE_LINES - 1]) if len(lines) > PAGE_LINES else ""
    return _show(request, lines[:PAGE_LINES], typed, following, health=site.ledger.history.health())


@router.post("/search")
def search(request: Request, site: Here, visitor: Reader, form: Form) -> Response:
    """Show the studies of a patient ID or accession number; what was typed is in no address and no log."""
    patient, accession = form.get("patient_id", "").strip()[:64], form.get("accession", "").strip()[:64]
    if not patient and not accession:
        raise HTTPException(400, "Give a patient ID or an accession number.")
    searched = site.patients.search(patient, accession)
    site.audit(
        AuditEvent(
            "studies-searched",
            peer_host=visitor.address,
            detail=f"by {'patient ID' if patient else 'accession number'}: "
            f"{counted(searched.matches, 'study', 'studies')}",
            user=visitor.user_name,
        )
    )
    return _show(request, searched.lines, {}, "", searched=searched, patient=patient, accession=accession)


def _show(
    request: Request, lines: tuple[StudyLine, ...], typed: dict[str, str], following: str, **values: Any
) -> Response:
    filters = {key: text for key, text in typed.items() if text}
    return render(
        request,
        "studies.html",
        lines=lines,
        waiting_for=reasons_of(site_of(request), lines),
        typed=dict.fromkeys(("state", "outcome", "delivery", "uid", "ae", "since", "until"), "") | typed,
        filters=filters,
        following=following,
        states=_STATES,
        outcomes=[outcome.value for outcome in Outcome],
        deliveries=[state.value for state in DeliveryState],
        **{"health": None, "searched": None, "patient": "", "accession": "", **values},
    )


def _filter_of(typed: dict[str, str]) -> StudyFilter:
    until = _day(typed["until"])
    return StudyFilter(
        state=_word(JobState, typed["state"]),
        outcome=_word(Outcome, typed["outcome"]),
        delivery=_word(DeliveryState, typed["delivery"]),
        uid_fragment=typed["uid"].strip()[:64],
        calling_ae=typed["ae"].strip()[:16],
        since=_day(typed["since"]),
        until=None if until is None else until + timedelta(days=1).total_seconds(),
    )


def _word(kind: type[_Word], text: str) -> _Word | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise HTTPException(400, "There is no such state.") from None


def _day(text: str) -> float | None:
    """Return when a day begins here, in seconds since the epoch."""
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").astimezone().timestamp()
    except (ValueError, OverflowError):
        raise HTTPException(400, "A day is written as 2026-11-29.") from None


def _cursor_text(line: StudyLine) -> str:
    return f"{line.last_received_at!r}_{line.StudyInstanceUID}"


def _cursor_of(text: str) -> Cursor | None:
    if not text:
        return None
    at, _, uid = text.partition("_")
    try:
        cursor = Cursor(float(at), uid)
    except ValueError:
        raise HTTPException(400, "There is no such page of the list.") from None
    if not is_uid(uid):
        raise HTTPException(400, "There is no such page of the list.")
    return cursor
