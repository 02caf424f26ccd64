"""The list of what a stranger may try on the pages: headers, injection, paths, sizes, transport. Each has a test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicomnode.errors import ConfigError, RetryLater
from dicomnode.ledger.history import History
from dicomnode.settings.config import parse_config
from dicomnode.web.guard import origin_of
from dicomnode.web.node import hide_secrets
from dicomnode.web.site import Site
from tests.factories.ledger import STUDY, header, received
from tests.factories.pages import Pages

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"
EVERY_PAGE = [
    "/",
    "/login",
    f"/studies/{STUDY}",
    f"/studies/{STUDY}/orders/retry",
    "/uploads",
    "/node",
    "/node/settings",
    "/audit",
    "/statistics",
    "/nothing",
    "/static/node.css",
    "/static/../users",
]


def test_every_answer_carries_the_headers(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("anna")

    for path in EVERY_PAGE:
        headers = pages.client.get(path, follow_redirects=False).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), path
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store" or path.startswith("/static")
        assert "server" not in headers


def test_pages_bring_no_inline_script_style_or_foreign_address(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("anna")

    for path in EVERY_PAGE[:9]:
        text = pages.client.get(path).text
        assert " style=" not in text
        assert " onclick=" not in text
        assert text.count("<script") == text.count('<script src="/static/')
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text


def test_what_a_header_holds_is_text(pages: Pages) -> None:
    pages.story.ledger.instances.add(received(1))
    ((instance_id, _),) = pages.story.ledger.instances.unindexed(9)
    fields = {"SeriesDescription": EVIL, "ProtocolName": EVIL, "Modality": EVIL}
    pages.story.ledger.instances.record_header(
        instance_id, header(1).__class__(**{**vars(header(1)), **fields}), 11.0
    )
    job = pages.story.ledger.jobs.waiting()[0]
    pages.story.ledger.jobs.mark_ready(job.id, EVIL, {"choice": [], "note": EVIL}, 12.0)
    pages.log_in("anna")

    for path in ("/", f"/studies/{STUDY}"):
        text = pages.client.get(path).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;" in text
        assert "49" not in text.partition("onerror")[2][:20], "no template in a header is run"


def test_what_is_typed_is_text(pages: Pages) -> None:
    pages.log_in("anna")

    typed = [
        pages.client.get("/", params={"uid": EVIL, "ae": EVIL}).text,
        pages.client.post("/search", data={"patient_id": EVIL, "form_token": pages.form_token("/")}).text,
        pages.client.get("/login", params={"then": EVIL}).text,
        pages.client.get(f"/{EVIL}").text,
    ]
    assert [text for text in typed if "<script>alert" in text or "<img src=x" in text] == []


@pytest.mark.parametrize(
    "query",
    [
        "state=nonsense",
        "since=yesterday",
        "since=0000-99-99",
        "after=x",
        "after=1_abc",
        "after=nan_1.2",
        "uid=' OR 1=1 --",
    ],
)
def test_filters_that_mean_nothing_are_a_clear_page(pages: Pages, query: str) -> None:
    pages.log_in()

    answer = pages.client.get(f"/?{query}")

    assert answer.status_code in (200, 400)
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/studies/..%2f..%2fetc",
        "/studies/1.2.3",
        f"/studies/{STUDY}/results/..%2f..%2fledger.sqlite3/file",
        "/static/..%2f..%2fusers.py",
        "/static/%2e%2e/guard.py",
        "/uploads/" + "0" * 32,
        "/uploads/" + "0" * 32 + "/results/-1",
        f"/studies/{STUDY}/slices/1/flair/axial/3",
        f"/studies/{STUDY}/slices/1/flair/diagonal/3",
        f"/studies/{STUDY}/orders/destroy",
    ],
)
def test_paths_lead_to_nothing_else(pages: Pages, path: str) -> None:
    pages.story.encoded()
    pages.log_in("anna")

    assert pages.client.get(path, follow_redirects=False).status_code in (303, 400, 404)


def test_a_large_form_is_refused_by_its_header_and_by_its_bytes(pages: Pages) -> None:
    pages.log_in("anna")

    assert pages.client.post("/login", data={"name": "x" * 100_000}).status_code == 413
    chunks = (b"x" * 1000 for _ in range(100))
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert pages.client.post("/login", content=chunks, headers=form).status_code == 413


def test_a_locked_ledger_is_a_clear_page(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    pages.log_in()

    def locked(_history: History, *_arguments: object) -> None:
        raise RetryLater("database is locked")

    monkeypatch.setattr(History, "health", locked)
    answer = pages.client.get("/")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "try again in a moment" in answer.text


def test_a_page_that_fails_shows_and_logs_nothing_of_what_it_worked_on(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages.log_in()

    def broken(_history: History, *_arguments: object) -> None:
        raise ValueError("DOE^JANE")

    monkeypatch.setattr(History, "health", broken)
    answer = pages.client.get("/")

    assert answer.status_code == 500
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "no-store"
    assert "DOE" not in answer.text
    assert "DOE" not in "".join(capsys.readouterr())


def test_a_study_that_is_gone_is_a_clear_page(pages: Pages) -> None:
    pages.log_in("anna")

    answer = pages.client.get(f"/studies/{STUDY}")
    order = pages.client.post(f"/studies/{STUDY}/orders/retry", data={"form_token": pages.form_token("/")})

    assert (answer.status_code, order.status_code) == (404, 404)
    assert "removed after its time" in answer.text


def test_views_orders_searches_and_the_trail_itself_are_audited(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("anna")
    pages.audited.clear()

    for _ in range(3):
        pages.client.get(f"/studies/{STUDY}")
    pages.client.get("/audit")
    token = pages.form_token("/")
    pages.client.post("/search", data={"patient_id": "4711", "form_token": token})
    pages.client.post(f"/studies/{STUDY}/orders/retry", data={"form_token": token})

    assert pages.kinds() == ["study-viewed", "audit-viewed", "studies-searched", "study-ordered"]
    assert {event.user for event in pages.audited} == {"anna"}
    assert "4711" not in str(pages.audited)
    pages.clock.now += 301
    pages.client.get(f"/studies/{STUDY}")
    assert pages.kinds()[-1] == "study-viewed"


def test_orders_do_what_their_buttons_say(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("otto")

    def order(name: str) -> int:
        path = f"/studies/{STUDY}/orders/{name}"
        return pages.client.post(
            path, data={"form_token": pages.form_token(path)}, follow_redirects=False
        ).status_code

    assert order("reopen") == 303
    assert pages.story.newest()["state"] == "waiting"
    assert order("deliver-again") == 409
    assert pages.story.newest()["state"] == "waiting"


def test_administrators_alone_read_settings_and_the_trail(pages: Pages) -> None:
    pages.log_in("otto")

    assert [pages.client.get(path).status_code for path in ("/node/settings", "/audit", "/node")] == [
        403,
        403,
        200,
    ]
    assert pages.client.post("/node/doctor", data={"form_token": pages.form_token("/")}).status_code == 403


def test_secrets_are_hidden() -> None:
    hidden = hide_secrets({"a": [{"password": "x", "secret_file": "/f"}], "token": "y", "port": 1})

    assert hidden == {"a": [{"password": "***", "secret_file": "/f"}], "token": "***", "port": 1}


def problems(**web: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config({"web": {"enabled": True, **web}})
    return str(caught.value)


def test_beyond_this_machine_only_with_tls_or_a_proxy_and_never_without_a_login() -> None:
    assert "web.tls" in problems(bind="0.0.0.0", users="/u")
    assert "loopback address only" in problems(bind="0.0.0.0", login=False, trusted_proxies=["10.0.0.1"])
    assert "let everybody in" in problems(login=False, trusted_proxies=["127.0.0.1"])
    assert "web.users" in problems()
    assert "not an address" in problems(users="/u", trusted_proxies=["proxy.example"])
    assert parse_config({"web": {"enabled": True, "login": False}}).web.is_local


def test_a_proxy_is_believed_when_it_is_trusted(open_with: Callable[..., Pages]) -> None:
    pages = open_with(trusted_proxies=["10.0.0.1"])
    site: Site = pages.site
    headers = {"x-forwarded-for": "6.6.6.6, 192.0.2.7", "x-forwarded-proto": "https"}

    for peer, expected in (("10.0.0.1", ("192.0.2.7", True)), ("10.0.0.2", ("10.0.0.2", False))):
        scope = {"client": (peer, 1), "scheme": "http"}
        assert origin_of(scope, headers, site.config.web) == expected
    proxy = pages.new_client("10.0.0.1")
    assert proxy.get("/login").status_code == 403, "the proxy was called without HTTPS"
    answer = proxy.get("/login", headers=headers)
    assert answer.status_code == 200
    assert "__Host-dicomnode" in answer.headers["set-cookie"]
    assert "Secure" in answer.headers["set-cookie"]
    assert "strict-transport-security" in answer.headers
