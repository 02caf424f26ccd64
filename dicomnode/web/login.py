"""Log in and out."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from dicomnode.audit.events import MINOR_FAILURE, AuditEvent
from dicomnode.web.guard import cookie_text
from dicomnode.web.pages import render
from dicomnode.web.sessions import new_browser_token
from dicomnode.web.site import Anybody, Form, Here, Site, Visitor
from dicomnode.web.users import User

router = APIRouter()

# A page of ours: one slash at the start, and nothing that a browser takes for another host.
_OWN_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9._/-]*")
_MOST_WAITING_S = 2.0


@router.get("/login")
def show_login(request: Request, visitor: Anybody, then: str = "/") -> Response:
    """Show the form."""
    if visitor.role is not None:
        return RedirectResponse("/", 303)
    return render(request, "login.html", then=own_path(then), sentence="")


@router.post("/login")
def log_in(request: Request, site: Here, visitor: Anybody, form: Form) -> Response:
    """Begin a session, or say that name and password do not fit; never which of them."""
    name, then = form.get("name", "")[:64], own_path(form.get("then", "/"))
    wait_s = site.brake.wait_s(name, visitor.address, site.now())
    if wait_s:
        sentence = f"Too many tries. Wait {max(1, round(wait_s / 60))} min and try again."
        return render(request, "login.html", 429, then=then, sentence=sentence)
    user = _check(site, visitor, name, form.get("password", ""))
    if user is None:
        return render(request, "login.html", 403, then=then, sentence="Name and password do not fit.")
    site.sessions.end(visitor.browser_token)
    token = site.sessions.start(user.name, user.role, site.now())
    site.audit(AuditEvent("user-login", peer_host=visitor.address, user=user.name))
    answer = RedirectResponse(then, 303)
    answer.headers["set-cookie"] = cookie_text(
        request.state.cookie_name, token, is_secure=request.state.is_secure
    )
    return answer


@router.post("/logout")
def log_out(request: Request, site: Here, visitor: Anybody, form: Form) -> Response:
    """End the session."""
    site.sessions.end(visitor.browser_token)
    if visitor.role is not None:
        site.audit(AuditEvent("user-logout", peer_host=visitor.address, user=visitor.user_name))
    answer = RedirectResponse("/login", 303)
    answer.headers["set-cookie"] = cookie_text(
        request.state.cookie_name, new_browser_token(), is_secure=request.state.is_secure
    )
    return answer


def own_path(path: str) -> str:
    """Return a path of ours as it is, and the first page for everything else.

    >>> own_path("/studies/1.2"), own_path("//other.example"), own_path("https://other.example")
    ('/studies/1.2', '/', '/')
    """
    return path if _OWN_PATH.fullmatch(path) else "/"


def _check(site: Site, visitor: Visitor, name: str, password: str) -> User | None:
    """Return the user whose password this is; a failure is counted and audited."""
    if site.users is None or not site.brake.one_at_a_time.acquire(timeout=_MOST_WAITING_S):
        return None
    try:
        user = site.users.check(name, password)
    finally:
        site.brake.one_at_a_time.release()
    if user is not None:
        site.brake.note_success(name, visitor.address)
        return user
    site.brake.note_failure(name, visitor.address, site.now())
    # Not the name: people type their password there.
    site.audit(AuditEvent("user-login-failed", MINOR_FAILURE, peer_host=visitor.address))
    return None
