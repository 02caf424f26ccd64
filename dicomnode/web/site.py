"""What the pages work with, joined once at the start of the process; and who asks for a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from dicomnode.audit.events import Audit, AuditEvent, silent
from dicomnode.ledger.ledger import Ledger
from dicomnode.settings.config import Config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.study.remembered import RememberedViews
from dicomnode.web.patient_index import PatientIndex
from dicomnode.web.prepared import PreparedCases
from dicomnode.web.sessions import LoginBrake, Sessions
from dicomnode.web.uploads import Uploads
from dicomnode.web.users import UserRole, Users
from dicomnode.web.views import RecentViews

_MOST_FIELDS = 40


@dataclass
class Current:
    """The configuration that holds now; a reload exchanges it."""

    config: Config


@dataclass(frozen=True)
class Site:
    """What the pages work with.

    Attributes
    ----------
    folder
        Where the pages keep uploads and prepared images.
    users
        Who may log in; None where there is no login.
    examine
        Runs the checks of `dicomnode doctor` on a configuration.
    models
        Gives what pages show of each network that is there.
    """

    current: Current
    ledger: Ledger
    layout: SpoolLayout
    folder: Path
    now: Callable[[], float]
    users: Users | None
    sessions: Sessions
    cases: PreparedCases
    uploads: Uploads
    patients: PatientIndex
    audit: Audit = silent
    examine: Callable[[Config], Iterable[Any]] = lambda _config: ()
    models: Callable[[Config], Iterable[Mapping[str, str]]] = lambda _config: ()
    brake: LoginBrake = field(default_factory=LoginBrake)
    views: RecentViews = field(default_factory=RecentViews)
    waiting: RememberedViews = field(default_factory=lambda: RememberedViews(most_studies=100))

    @property
    def config(self) -> Config:
        """The configuration that holds now."""
        return self.current.config

    def take_over(self, config: Config) -> None:
        """Go on with another configuration, as far as a reload changes it."""
        self.current.config = config

    def close(self) -> None:
        """Stop what is under way; the ledger is closed by who opened it."""
        self.patients.close()
        self.uploads.close()
        self.cases.close()


@dataclass(frozen=True)
class Visitor:
    """Who asks: `role` is None where nobody is logged in; `browser_token` ties forms to a browser."""

    user_name: str
    role: UserRole | None
    address: str
    browser_token: str

    def may(self, role: UserRole) -> bool:
        """Return whether this visitor may do what a role may."""
        return self.role is not None and self.role >= role


class LoginNeeded(Exception):
    """Nobody is logged in: the browser is sent to the log-in."""


def site_of(request: Request) -> Site:
    """Return the site that a request is for."""
    site: Site = request.app.state.site
    return site


def visitor_of(request: Request) -> Visitor:
    """Return who asks, as the guard saw."""
    visitor: Visitor = request.state.visitor
    return visitor


def _needs(role: UserRole) -> Callable[[Request], Visitor]:
    def check(request: Request) -> Visitor:
        visitor = visitor_of(request)
        if visitor.role is None:
            raise LoginNeeded
        if not visitor.may(role):
            raise HTTPException(
                403, f"This is for the role {role.name.lower()}; ask an administrator for it."
            )
        return visitor

    return check


async def _own_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that this site gave to this browser; 403 for every other form."""
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        raise HTTPException(415, "This takes a form.")
    form = await request.form(max_files=0, max_fields=_MOST_FIELDS)
    fields = {key: value for key, value in form.items() if isinstance(value, str)}
    visitor = visitor_of(request)
    if not site_of(request).sessions.is_own_form(visitor.browser_token, fields.pop("form_token", "")):
        raise HTTPException(
            403, "This form is too old or not ours. Go back, load the page anew and try again."
        )
    return fields


Here = Annotated[Site, Depends(site_of)]
Anybody = Annotated[Visitor, Depends(visitor_of)]
Reader = Annotated[Visitor, Depends(_needs(UserRole.READER))]
UploadingUser = Annotated[Visitor, Depends(_needs(UserRole.OPERATOR))]
OperatingUser = Annotated[Visitor, Depends(_needs(UserRole.OPERATOR))]
AdministratingUser = Annotated[Visitor, Depends(_needs(UserRole.ADMINISTRATOR))]
Form = Annotated[dict[str, str], Depends(_own_form)]


def audit_view(site: Site, visitor: Visitor, StudyInstanceUID: str, shown: str) -> None:
    """Audit that somebody saw a study; what a page fetches by itself within some minutes is one view."""
    if site.views.is_new((visitor.browser_token, visitor.user_name, StudyInstanceUID, shown), site.now()):
        site.audit(
            AuditEvent(
                "study-viewed",
                peer_host=visitor.address,
                StudyInstanceUID=StudyInstanceUID,
                detail=shown,
                user=visitor.user_name,
            )
        )
