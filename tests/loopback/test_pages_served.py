"""The pages over real sockets: browsers that hang up in the middle, and a ledger that another program keeps locked."""

from __future__ import annotations

import gc
import socket
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from dicomnode.ledger import database
from dicomnode.web.application import make_application
from dicomnode.web.server import PageServer
from tests.factories.ledger import STUDY
from tests.factories.pages import Pages, open_pages

pytestmark = pytest.mark.slow

REQUEST = b"GET /studies/" + STUDY.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\n"
BEGUN_FORM = (
    b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 60\r\n\r\npatient_id="
)


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    # A ledger that is locked is waited for this long, and not for twenty seconds.
    monkeypatch.setattr(database, "_PRAGMAS", ("PRAGMA busy_timeout = 200", *database._PRAGMAS[1:]))
    with open_pages(tmp_path, login=False, port=0, users="") as opened:
        opened.story.encoded()
        yield opened


@pytest.fixture
def port(pages: Pages) -> Iterator[int]:
    server = PageServer(make_application(pages.site), pages.site.config)
    server.start()
    yield server.port
    server.stop()


def hang_up(port: int, content: bytes, *, harshly: bool) -> None:
    """Send bytes and go away without reading: with a FIN, or with a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as browser:
        browser.sendall(content)
        if harshly:
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_no_answer_waits_for_the_acknowledgement_of_its_head(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as browser:
        browser.sendall(REQUEST + b"\r\n")
        assert browser.recv(12) == b"HTTP/1.1 200"
        served = [end for end in connected_sockets() if end.getpeername() == browser.getsockname()]

        assert [end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for end in served] == [1]


def connected_sockets() -> Iterator[socket.socket]:
    """Yield the TCP sockets of this process that have a peer."""
    for candidate in gc.get_objects():
        with suppress(OSError, ReferenceError):
            if isinstance(candidate, socket.socket) and candidate.family == socket.AF_INET:
                candidate.getpeername()
                yield candidate


@pytest.mark.parametrize("content", [b"GE", REQUEST, REQUEST + b"\r\n", BEGUN_FORM])
def test_a_browser_that_hangs_up_in_the_middle_harms_nobody(
    pages: Pages, port: int, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        hang_up(port, content, harshly=bool(number % 2))

    answer = httpx.get(
        f"http://127.0.0.1:{port}/studies/{STUDY}", headers={"accept": "text/html"}, timeout=60
    )
    assert (answer.status_code, "Answered" in answer.text) == (200, True)
    assert pages.story.newest()["state"] == "encoded"
    assert "Traceback" not in "".join(capsys.readouterr())


def test_while_another_program_locks_the_ledger_pages_are_shown_and_orders_refused(
    pages: Pages,
) -> None:
    path = pages.site.config.storage.root / "ledger.sqlite3"
    locking = sqlite3.connect(path)
    locking.execute("BEGIN IMMEDIATE")
    try:
        shown = pages.client.get(f"/studies/{STUDY}")
        assert shown.status_code == 200
        token = pages.form_token(f"/studies/{STUDY}/orders/retry")
        ordered = pages.client.post(f"/studies/{STUDY}/orders/retry", data={"form_token": token})
        assert (ordered.status_code, ordered.headers["retry-after"]) == (503, "5")
        assert "Nothing was changed" in ordered.text
        assert pages.kinds().count("study-ordered") == 0
    finally:
        locking.rollback()
        locking.close()
    assert pages.story.newest()["state"] == "encoded"
