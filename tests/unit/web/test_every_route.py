"""What holds for every address of the pages: the routes are read from the application, so that a new one is tested by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from dicomnode.web.prepared import PreparedCases
from dicomnode.web.site import _own_form
from tests.factories.ledger import STUDY
from tests.factories.pages import Pages

NOBODY, READER, OPERATOR, ADMINISTRATOR = None, "rita", "otto", "anna"
ROLES = {
    "/login": NOBODY,
    "/logout": NOBODY,
    "/": READER,
    "/search": READER,
    "/studies": READER,
    "/studies/{StudyInstanceUID}/orders": OPERATOR,
    "/uploads": OPERATOR,
    "/statistics": READER,
    "/node": READER,
    "/node/doctor": ADMINISTRATOR,
    "/node/settings": ADMINISTRATOR,
    "/audit": ADMINISTRATOR,
}
"""The least of the three that may use what begins so; the longest beginning counts."""

VALUES = {
    "StudyInstanceUID": STUDY,
    "SOPInstanceUID": f"{STUDY}.77.1",
    "order": "retry",
    "frame": "1",
    "revision": "1",
    "role": "flair",
    "plane": "axial",
    "index": "3",
    "number": "0",
    "name": "0" * 32,
}
HOSTILE = (
    "..%2fsecret",
    "..%2f..%2fsecret",
    "..%2f..%2f..%2fusers",
    "%2e%2e",
    "..%5c..%5csecret",
    "%252e%252e%252fsecret",
    "secret%00.dcm",
    "%2fetc%2fpasswd",
    "-1",
    "1" * 300,
)
SECRET = "root:x:0:0"


@dataclass(frozen=True)
class Address:
    """A method and a path with its parameters in braces."""

    method: str
    path: str
    takes_form: bool

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def filled(self, **values: str) -> str:
        return re.sub(r"{(\w+)}", lambda match: (VALUES | values)[match[1]], self.path)

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def user(self) -> str | None:
        beginnings = [start for start in ROLES if self.path == start or self.path.startswith(f"{start}/")]
        return ROLES[max(beginnings, key=len)]


def addresses(pages: Pages) -> list[Address]:
    application = pages.client.app._app  # type: ignore[attr-defined]
    routes, other_paths = list[APIRoute](), list[str]()
    for entry in application.routes:
        # FastAPI keeps the routers that were joined whole, or their routes.
        router = getattr(entry, "original_router", None)
        for route in [entry] if router is None else router.routes:
            if isinstance(route, APIRoute):
                routes.append(route)
            else:
                other_paths.append(route.path)
    assert other_paths == ["/static"], "nothing else besides pages"
    assert len(routes) > 25
    return [
        Address(method, route.path, any(item.call is _own_form for item in route.dependant.dependencies))
        for route in routes
        for method in sorted(route.methods)
    ]


def state(pages: Pages) -> list[Any]:
    """Everything that a request could have changed, save who is logged in."""
    history = pages.story.ledger.history
    uploads = [upload.name for upload in pages.site.uploads.all()]
    return [history.of_study(STUDY), history.health(), uploads, pages.site.config]


def browsers(pages: Pages) -> Iterator[tuple[str | None, TestClient]]:
    for number, name in enumerate((NOBODY, READER, OPERATOR, ADMINISTRATOR)):
        client = pages.new_client(f"10.0.1.{number}")
        if name is not None:
            pages.log_in(name, client=client)
        yield name, client


@pytest.fixture
def answered(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """Pages with a study that is answered; the process that prepares its images is not started."""
    monkeypatch.setattr(PreparedCases, "ask_for", lambda *_arguments: "")
    pages.story.encoded()
    return pages


def test_every_address_says_who_may_use_it_and_nobody_else_may(answered: Pages) -> None:
    order = [NOBODY, READER, OPERATOR, ADMINISTRATOR]
    wrong = []
    for name, client in browsers(answered):
        for address in addresses(answered):
            if address.path in ("/login", "/logout"):
                continue
            status = client.request(address.method, address.filled(), follow_redirects=False).status_code
            is_allowed = order.index(name) >= order.index(address.user)
            # Without its form an order goes no further than 403 or 415, also for who may give it.
            refusals = {403} if name else {303, 401}
            if not is_allowed and status not in refusals:
                wrong.append((str(address), name, status))
            if status >= 500 or (is_allowed and address.method == "GET" and status in {303, 401, 403}):
                wrong.append((str(address), name, status))
    assert wrong == []


def test_every_order_wants_the_form_of_this_browser_and_changes_nothing_without(answered: Pages) -> None:
    client, before = answered.client, state(answered)
    answered.log_in(ADMINISTRATOR or "")
    second_browser = answered.new_client("10.0.0.8")
    answered.log_in("otto", client=second_browser)
    foreign = answered.form_token("/", second_browser)
    own_form = {"form_token": answered.form_token("/")}
    forms: list[dict[str, Any]] = [
        {"data": {}},
        {"data": {"form_token": ""}},
        {"data": {"form_token": "0" * 64}},
        {"data": {"form_token": foreign}},
        {"data": own_form, "headers": {"origin": "https://evil.example"}},
        {"data": own_form, "headers": {"origin": "null"}},
        {"data": own_form, "headers": {"sec-fetch-site": "cross-site"}},
        {"json": own_form},
        {"params": own_form},
    ]
    orders = [address for address in addresses(answered) if address.method != "GET"]
    assert len(orders) >= 8
    for address in orders:
        assert address.takes_form or address.path == "/uploads/{name}/files", (
            "by a header, tested with uploads"
        )
        statuses = {
            client.request(address.method, address.filled(), **form, follow_redirects=False).status_code
            for form in forms
        }
        assert statuses <= {403, 415}, address
    assert state(answered) == before
    assert client.get("/").status_code == 200, "still logged in"


def test_no_address_takes_another_method(answered: Pages) -> None:
    answered.log_in("anna")
    before, paths = state(answered), {address.filled() for address in addresses(answered)}
    for path in paths:
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
            assert answered.client.request(method, path).status_code == 405, (method, path)
    assert state(answered) == before


def test_no_parameter_leads_out_of_its_folder(answered: Pages, tmp_path: Path) -> None:
    answered.log_in("anna")
    token, before = answered.form_token("/"), state(answered)
    # A file in every folder upwards: what leads to one of them shows it.
    root = answered.site.config.storage.root
    for folder in (answered.site.folder, root, root.parent, tmp_path, answered.site.layout.root):
        folder.mkdir(exist_ok=True)
        (folder / "secret").write_text(SECRET)
    count = 0
    for address in addresses(answered):
        for parameter in address.parameters:
            for text in HOSTILE:
                path = address.filled(**{parameter: text})
                fields = {"data": {"form_token": token}} if address.method == "POST" else {}
                answer = answered.client.request(address.method, path, **fields, follow_redirects=False)
                assert answer.status_code in {400, 403, 404, 405}, path
                assert SECRET not in answer.text, path
                assert "$argon2" not in answer.text, path
                count += 1
    for text in HOSTILE:
        answer = answered.client.get(f"/static/{text}")
        assert answer.status_code == 404
        assert SECRET not in answer.text
    assert count > 200
    assert state(answered)[0] == before[0]


def test_every_answer_of_every_address_carries_the_headers(answered: Pages) -> None:
    expected = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
    answered.log_in("anna")
    for client in (answered.client, answered.new_client("10.0.0.8")):
        for address in addresses(answered):
            headers = client.request(address.method, address.filled(), follow_redirects=False).headers
            assert {name: headers.get(name) for name in expected} == expected, address
            policy = dict(
                directive.strip().split(" ", 1) for directive in headers["content-security-policy"].split(";")
            )
            assert policy.pop("default-src") == "'none'"
            assert policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
            assert set(policy.values()) == {"'self'"}, address
            assert "server" not in headers
            assert "x-powered-by" not in headers


def test_every_check_that_the_page_lists_is_there(repo_root: Path) -> None:
    page = (repo_root / "docs" / "web.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(test_\w+)`", page))
    paths = [path for glob in ("unit/web/*.py", "*/*pages*.py") for path in (repo_root / "tests").glob(glob)]
    sources = "".join(path.read_text(encoding="utf-8") for path in paths)

    assert len(listed) > 25
    assert listed <= set(re.findall(r"def (test_\w+)\(", sources))


def test_a_new_address_without_a_role_is_noticed() -> None:
    with pytest.raises(ValueError, match="empty"):
        _ = Address("GET", "/new", takes_form=False).user
