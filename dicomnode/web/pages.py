"""Templates: one environment, escaped always; times, sizes and words as pages show them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dicomnode import __version__
from dicomnode.web.site import site_of, visitor_of
from dicomnode.web.users import UserRole
from pipeline.counts import counted

FOLDER = Path(__file__).parent
STATE_WORDS = {
    "waiting": "waiting for images",
    "ready": "queued",
    "running": "being computed",
    "encoded": "being delivered",
    "done": "done",
    "failed": "failed",
    "superseded": "replaced by newer images",
    "due": "to be sent",
    "sending": "being sent",
    "sent": "sent",
    "confirmed": "proved to have arrived",
    "given_up": "given up",
    "withdrawn": "withdrawn",
    "lesions": "lesions",
    "negative": "no lesion",
    "undetermined": "undetermined",
    "refused": "not processed",
    "excluded": "left out by a rule",
}
"""States and outcomes of the ledger as pages call them."""
_KIND_WORDS = {
    "seg": "Segmentation",
    "seg-t1": "Segmentation on the T1",
    "probability": "Probability map",
    "pictures": "Pictures",
    "pdf": "Report as PDF",
    "sr": "Structured report",
    "ko": "Key objects",
    "summary": "Report in words",
}


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page: the template with who asks, form token and navigation around it."""
    visitor, site = visitor_of(request), site_of(request)
    around = {
        "visitor": visitor,
        "may_operate": visitor.may(UserRole.OPERATOR),
        "may_administrate": visitor.may(UserRole.ADMINISTRATOR),
        "has_login": site.config.web.login,
        "form_token": site.sessions.form_token(visitor.browser_token),
        "version": __version__,
        "node_name": site.config.network.ae_title,
        "now": site.now(),
        "path": request.url.path,
    }
    return HTMLResponse(_ENVIRONMENT.get_template(template).render({**around, **values}), status)


def clock(seconds: float | None) -> str:
    """Return a time of the ledger for people, local; "-" for none."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def day(text: str) -> str:
    """Return a date of DICOM (DA) for people; what is none stays as it is.

    >>> day("20260105"), day("1950"), day("")
    ('2026-01-05', '1950', '')
    """
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdecimal() else text


def machine_time(seconds: float) -> str:
    """Return a time of the ledger as `datetime` of an HTML time element."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def span(seconds: float) -> str:
    """Return a length of time in its largest fitting unit.

    >>> span(75), span(7300), span(200000)
    ('75 s', '2.0 h', '2.3 days')
    """
    for unit_s, unit, digits in ((86_400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.{digits}f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def kind_words(kind: str) -> str:
    """Return what a kind of result is called; what has no name is called as it is.

    >>> kind_words("seg"), kind_words("sr.enhanced.auto"), kind_words("xyz")
    ('Segmentation', 'Structured report (enhanced, auto)', 'xyz')
    """
    name, *forms = kind.split(".")
    return _KIND_WORDS.get(name, name) + (f" ({', '.join(forms)})" if forms else "")


def size(count: float) -> str:
    """Return a number of bytes in its largest fitting unit.

    >>> size(1500), size(3e9)
    ('1.5 kB', '3.0 GB')
    """
    for unit_bytes, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit_bytes:
            return f"{count / unit_bytes:.1f} {unit}"
    return counted(round(count), "byte")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock,
        "machine_time": machine_time,
        "span": span,
        "size": size,
        "counted": counted,
        "day": day,
        "kind": kind_words,
    }
    environment.filters["words"] = lambda state: STATE_WORDS.get(state, state)
    return environment


_ENVIRONMENT = _environment()
