"""The pages joined: routes, static files, and a clear page for everything that goes wrong."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dicomnode.errors import NodeError, RetryLater
from dicomnode.web import login, node, statistics, studies, study, upload, viewer
from dicomnode.web.guard import App, Guard
from dicomnode.web.pages import FOLDER, render
from dicomnode.web.site import LoginNeeded, Site

_TITLES = {
    400: "That cannot be read",
    403: "Not allowed",
    404: "Not here",
    409: "That cannot be done now",
    413: "Too large",
    415: "Not a kind of file that is taken",
    429: "Too many tries",
    503: "Not available for the moment",
}


def make_application(site: Site) -> App:
    """Return the pages of a node as an ASGI application, with the guard around them."""
    # Without the pages that describe the interface: they load scripts of other hosts.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.site = site
    for room in (login, studies, study, viewer, upload, node, statistics):
        app.include_router(room.router)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    app.add_exception_handler(LoginNeeded, _ask_to_log_in)
    app.add_exception_handler(HTTPException, _explain_refusal)
    app.add_exception_handler(RequestValidationError, _explain_bad_request)
    app.add_exception_handler(RetryLater, _explain_lock)
    app.add_exception_handler(NodeError, _explain_problem)
    # Answered here; the guard then logs it without what it worked on.
    app.add_exception_handler(Exception, _explain_bug)
    return Guard(app, site)


async def _ask_to_log_in(request: Request, _problem: Exception) -> Response:
    if request.method == "GET" and "text/html" in request.headers.get("accept", "") and not _is_live(request):
        return RedirectResponse(f"/login?then={quote(request.url.path)}", 303)
    return _problem_page(request, 401, "Your session has ended. Log in again.")


async def _explain_refusal(request: Request, problem: Exception) -> Response:
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    sentence = str(problem.detail) if isinstance(problem, HTTPException) else ""
    if status == 404 and sentence == "Not Found":
        sentence = "There is no such page."
    return _problem_page(request, status, sentence, getattr(problem, "headers", None))


async def _explain_bad_request(request: Request, _problem: Exception) -> Response:
    # Not what was sent: it may be anything.
    return _problem_page(request, 400, "The address or the form has a value that cannot be read.")


async def _explain_lock(request: Request, _problem: Exception) -> Response:
    sentence = "The ledger is busy or its server is away. Nothing was changed; try again in a moment."
    return _problem_page(request, 503, sentence, {"Retry-After": "5"})


async def _explain_problem(request: Request, problem: Exception) -> Response:
    return _problem_page(request, 409, str(problem))


async def _explain_bug(request: Request, _problem: Exception) -> Response:
    return _problem_page(request, 500, "This page failed. The log says where; please report it.")


def _problem_page(
    request: Request, status: int, sentence: str, headers: dict[str, str] | None = None
) -> Response:
    title = _TITLES.get(status, "Please log in" if status == 401 else "That did not work")
    answer = render(request, "problem.html", status, title=title, sentence=sentence)
    for key, text in (headers or {}).items():
        answer.headers[key] = text
    return answer


def _is_live(request: Request) -> bool:
    return "x-live" in request.headers
