"""The viewer: three planes of a study, drawn by the server; the earlier study of the patient beside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response

from dicomnode.ledger.shown import JobStory, StudyHistory
from dicomnode.study.earlier import find_earlier
from dicomnode.web.pages import day, render
from dicomnode.web.patients import read_person
from dicomnode.web.prepared import Case
from dicomnode.web.site import Here, Reader, Site, audit_view
from dicomnode.web.slices import PLANES, Look, Plane, draw_slice, lesion_color, slice_count
from dicomnode.web.sources import StudySource
from dicomnode.web.study import find_history

router = APIRouter(prefix="/studies")


@dataclass(frozen=True)
class ShownCase:
    """A case on the page of the viewer: its title, where its slices are, the case, and whose it is."""

    title: str
    slices: str
    case: Case
    subject: str = ""


class LookQuery:
    """How a slice is to be drawn, as its address says."""

    def __init__(
        self,
        low: float = 0.0,
        high: float = 1.0,
        outlines: bool = True,
        opacity: Annotated[float, Query(ge=0, le=1)] = 0.0,
        probability: bool = False,
    ) -> None:
        self.look = Look(low, high, outlines, opacity, probability)


@router.get("/{StudyInstanceUID}/viewer")
def show_viewer(
    request: Request, site: Here, visitor: Reader, StudyInstanceUID: str, beside: bool = False
) -> Response:
    """Show the viewer, or that the images are being prepared."""
    history = find_history(site, StudyInstanceUID)
    audit_view(site, visitor, StudyInstanceUID, "viewer")
    shown, problem = _prepare(site, history)
    earlier = find_earlier(
        site.ledger,
        site.layout.root,
        StudyInstanceUID,
        site.ledger.instances.of_study(StudyInstanceUID)[:1],
    )
    if shown is None or problem:
        return show_waiting(request, f"/studies/{StudyInstanceUID}", problem)
    cases = [shown]
    if beside and earlier is not None:
        audit_view(site, visitor, earlier.StudyInstanceUID, "viewer, as the earlier study")
        before, problem = _prepare(site, find_history(site, earlier.StudyInstanceUID))
        if before is None or problem:
            return show_waiting(request, f"/studies/{StudyInstanceUID}", problem)
        cases.append(before)
    return show_cases(
        request,
        cases,
        back=f"/studies/{StudyInstanceUID}",
        has_earlier=earlier is not None,
        viewer_url=site.config.web.viewer_url.replace("{StudyInstanceUID}", StudyInstanceUID),
    )


@router.get("/{StudyInstanceUID}/slices/{revision}/{role}/{plane}/{index}")
def show_slice(
    site: Here,
    visitor: Reader,
    StudyInstanceUID: str,
    revision: int,
    role: str,
    plane: Plane,
    index: int,
    look: Annotated[LookQuery, Depends()],
) -> Response:
    """Hand out one slice."""
    find_history(site, StudyInstanceUID)
    case = site.cases.find(_case_name(StudyInstanceUID, revision))
    audit_view(site, visitor, StudyInstanceUID, "viewer")
    return slice_answer(case, role, plane, index, look.look)


def show_waiting(request: Request, back: str, problem: str) -> Response:
    """Show that images are being prepared, or why they cannot be."""
    return render(request, "viewer_waiting.html", 200, back=back, problem=problem)


def show_cases(
    request: Request, cases: list[ShownCase], *, back: str, has_earlier: bool, viewer_url: str
) -> Response:
    """Show cases side by side."""
    colors = {
        lesion["label"]: "#{:02x}{:02x}{:02x}".format(*lesion_color(lesion["label"]))
        for shown in cases
        for lesion in shown.case.lesions
    }
    return render(
        request,
        "viewer.html",
        cases=cases,
        planes=PLANES,
        colors=colors,
        back=back,
        has_earlier=has_earlier,
        viewer_url=viewer_url,
    )


def slice_answer(case: Case | None, role: str, plane: Plane, index: int, look: Look) -> Response:
    """Return a slice as PNG; 404 where there is no such slice (any more)."""
    if case is None or role not in case.roles or not 0 <= index < slice_count(case, plane):
        raise HTTPException(404, "There is no such slice; load the viewer anew.")
    try:
        return Response(draw_slice(case, role, plane, index, look), media_type="image/png")
    except FileNotFoundError:
        raise HTTPException(404, "There is no such slice; load the viewer anew.") from None


def _prepare(site: Site, history: StudyHistory) -> tuple[ShownCase | None, str]:
    """Return the case of a study when it is ready, else have it prepared; and why it cannot be."""
    uid = history.StudyInstanceUID
    job = _answered_job(history)
    name = _case_name(uid, job.revision)
    case = site.cases.find(name)
    if case is not None:
        return ShownCase(uid, f"/studies/{uid}/slices/{job.revision}", case, _subject(site, uid)), ""
    instances = tuple(site.ledger.instances.of_study(uid))
    paths = {line.kind.partition(".")[0]: site.layout.root / line.path for line in job.results}
    source = StudySource(
        uid, job.revision, instances, site.config, paths.get("seg"), paths.get("probability")
    )
    return None, site.cases.ask_for(name, source)


def _subject(site: Site, StudyInstanceUID: str) -> str:
    """Return name, ID and day of a study, as far as its images say them: two studies must not be mixed up."""
    person = read_person(site.ledger, site.layout.root, StudyInstanceUID)
    return ", ".join(text for text in (person.PatientName, person.PatientID, day(person.StudyDate)) if text)


def _answered_job(history: StudyHistory) -> JobStory:
    """Return the newest job with a segmentation, else the newest that has any result."""
    for starts in ("seg", ""):
        for job in reversed(history.jobs):
            if any(line.kind.startswith(starts) for line in job.results):
                return job
    raise HTTPException(404, "This study has no answer yet that could be looked at.")


def _case_name(StudyInstanceUID: str, revision: int) -> str:
    return f"{hashlib.sha256(StudyInstanceUID.encode()).hexdigest()[:32]}-{revision}"
