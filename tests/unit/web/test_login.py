"""Who may see the pages: users, sessions, roles, form tokens, the brake on log-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.errors import NodeError, StartError
from dicomnode.web.login import own_path
from dicomnode.web.users import UserRole, Users, read_users, remove_user, write_user
from tests.factories.ledger import STUDY
from tests.factories.pages import PASSWORD, Pages

PAGES_OF_READERS = ["/", f"/studies/{STUDY}", f"/studies/{STUDY}/montage"]


@pytest.mark.parametrize("path", PAGES_OF_READERS)
def test_without_a_login_every_page_leads_to_it(pages: Pages, path: str) -> None:
    pages.story.encoded()

    answer = pages.client.get(path, follow_redirects=False)

    assert (answer.status_code, answer.headers["location"]) == (303, f"/login?then={path}")
    assert pages.kinds() == []


def test_a_login_opens_the_pages_and_is_audited(pages: Pages) -> None:
    answer = pages.log_in()

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert pages.client.get("/").status_code == 200
    assert [(event.kind, event.user) for event in pages.audited] == [("user-login", "rita")]
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=Lax" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("name", "password"), [("rita", "wrong"), ("nobody", PASSWORD), ("", ""), ("rita", "x" * 9999)]
)
def test_a_wrong_login_says_the_same_whatever_was_wrong(pages: Pages, name: str, password: str) -> None:
    answer = pages.log_in(name, password)

    assert answer.status_code == 403
    assert "Name and password do not fit." in answer.text
    assert [(event.kind, event.outcome, event.user) for event in pages.audited] == [
        ("user-login-failed", 4, "")
    ]
    assert pages.client.get("/", follow_redirects=False).status_code == 303


def test_a_flood_of_logins_is_braked_and_ends_by_time(pages: Pages) -> None:
    statuses = [pages.log_in("rita", "wrong").status_code for _ in range(6)]

    assert statuses == [403] * 5 + [429]
    assert pages.log_in().status_code == 429, "also the right password waits"
    assert pages.log_in("rita", PASSWORD, pages.new_client("10.0.0.9")).status_code == 303, (
        "other desks do not"
    )
    pages.clock.now += 301
    assert pages.log_in().status_code == 303


def test_one_address_cannot_try_many_names(pages: Pages) -> None:
    statuses = [pages.log_in(f"name{number}", "wrong").status_code for number in range(21)]

    assert statuses == [403] * 20 + [429]


def test_a_login_takes_a_new_session_whatever_the_browser_brought(pages: Pages) -> None:
    pages.client.get("/login")
    before = pages.client.cookies["dicomnode"]
    pages.log_in()
    after = pages.client.cookies["dicomnode"]
    stranger = pages.new_client()
    stranger.cookies.set("dicomnode", before)

    assert after != before
    assert stranger.get("/", follow_redirects=False).status_code == 303


def test_sessions_end_by_idleness_by_age_and_by_log_out(pages: Pages) -> None:
    pages.log_in()
    pages.clock.now += 29 * 60
    assert pages.client.get("/", follow_redirects=False).status_code == 200
    pages.clock.now += 31 * 60
    assert pages.client.get("/", follow_redirects=False).status_code == 303

    pages.log_in()
    for _ in range(25):
        pages.clock.now += 29 * 60
        last = pages.client.get("/", follow_redirects=False).status_code
    assert last == 303, "after twelve hours"

    pages.log_in()
    token = pages.client.cookies["dicomnode"]
    pages.client.post("/logout", data={"form_token": pages.form_token("/")})
    pages.client.cookies.set("dicomnode", token)
    assert pages.client.get("/", follow_redirects=False).status_code == 303


def test_a_page_that_refreshes_itself_keeps_no_session_alive(pages: Pages) -> None:
    pages.log_in()
    for _ in range(3):
        pages.clock.now += 11 * 60
        status = pages.client.get("/", headers={"x-live": "1"}, follow_redirects=False).status_code

    assert status == 401


def test_a_user_who_is_taken_away_or_changed_is_so_at_once(pages: Pages) -> None:
    pages.log_in("anna")
    path = pages.site.config.web.users
    assert path is not None

    write_user(path, "anna", UserRole.READER, PASSWORD)
    assert "reader" in pages.client.get("/").text
    remove_user(path, "anna")
    assert pages.client.get("/", follow_redirects=False).status_code == 303


def test_a_reader_may_order_nothing(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("rita")

    for order in ("retry", "answer-again", "deliver-again", "reopen"):
        path = f"/studies/{STUDY}/orders/{order}"
        assert pages.client.get(path).status_code == 403
        assert pages.client.post(path, data={"form_token": pages.form_token("/")}).status_code == 403
    assert pages.story.newest()["state"] == "encoded"


@pytest.mark.parametrize("path", ["/login", "/logout", "/search", f"/studies/{STUDY}/orders/retry"])
def test_a_form_that_is_not_ours_does_nothing(pages: Pages, path: str) -> None:
    pages.story.encoded()
    pages.log_in("anna")

    for fields in ({"form_token": ""}, {"form_token": "0" * 64}, {"form_token": "é"}, {"other": "1"}):
        assert pages.client.post(path, data=fields).status_code == 403
    assert pages.client.post(path, json={"form_token": pages.form_token("/")}).status_code == 415
    assert pages.story.newest()["state"] == "encoded"
    assert pages.client.get("/").status_code == 200


def test_the_form_of_another_browser_is_not_ours(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("anna")
    other = pages.new_client("10.0.0.8")
    pages.log_in("otto", client=other)

    answer = pages.client.post(
        f"/studies/{STUDY}/orders/retry", data={"form_token": pages.form_token("/", other)}
    )

    assert answer.status_code == 403


def test_another_site_cannot_send_our_forms(pages: Pages) -> None:
    pages.story.encoded()
    pages.log_in("anna")
    data, path = {"form_token": pages.form_token("/")}, f"/studies/{STUDY}/orders/retry"

    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert pages.client.post(path, data=data, headers=headers).status_code == 403
    assert pages.story.newest()["state"] == "encoded"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\n/evil",
        "/%0d%0aX",
    ],
)
def test_a_login_leads_to_pages_of_ours_only(path: str) -> None:
    assert own_path(path) == "/"


def test_a_file_of_users_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "users"
    write_user(path, "anna", UserRole.ADMINISTRATOR, PASSWORD)
    good = path.read_text()

    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in good
    assert read_users(path)["anna"].role is UserRole.ADMINISTRATOR
    for text in (
        "anna",
        "anna:king:$argon2id$x",
        "anna:reader:secret",
        good + good,
        "a b:reader:$argon2id$x",
    ):
        path.write_text(text)
        with pytest.raises(StartError, match="line"):
            read_users(path)
    path.write_text(good)
    path.chmod(0o644)
    with pytest.raises(StartError, match="chmod 0600"):
        Users(path)


@pytest.mark.parametrize(
    ("name", "password"), [("a:b", PASSWORD), ("", PASSWORD), ("anna\n", PASSWORD), ("anna", "short")]
)
def test_names_and_passwords_that_are_not_allowed(tmp_path: Path, name: str, password: str) -> None:
    with pytest.raises(NodeError):
        write_user(tmp_path / "users", name, UserRole.READER, password)
    assert not (tmp_path / "users").exists()


def test_without_a_login_only_this_machine_by_its_own_name(open_with: Callable[..., Pages]) -> None:
    pages = open_with(login=False)

    assert pages.client.get("/", follow_redirects=False).status_code == 200
    assert pages.client.get("/", headers={"host": "evil.example"}).status_code == 403, "DNS rebinding"
