"""STOW-RS against a scripted server: what counts as stored, what is tried again, what stops, and who may be told a password."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.errors import ConfigError
from dicomnode.network.query import InstanceKey
from dicomnode.network.stow import find_by_qido, probe_web, stow_files
from dicomnode.network.tls import fingerprint_of
from dicomnode.settings.config import DestinationSettings, TlsSettings, parse_config
from tests.factories.certificates import Authority, Identity
from tests.factories.instances import small_instance, write_instances

INSTANCE = small_instance(1)
UID = str(INSTANCE.SOPInstanceUID)


def stored(uid: str = UID) -> dict[str, Any]:
    item, response = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = INSTANCE.SOPClassUID, uid
    response.ReferencedSOPSequence = [item]
    return dict(response.to_json_dict())


def failed(reason: int) -> dict[str, Any]:
    item, response = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = (
        INSTANCE.SOPClassUID,
        UID,
        reason,
    )
    response.FailedSOPSequence = [item]
    return dict(response.to_json_dict())


class _QuietServer(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of handshakes that fail."""


class Server:
    """Answers every request with `status` and `body`; keeps what it was sent."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status, self.body = 200, json.dumps(stored())
        self.requests: list[tuple[str, str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                data = self.rfile.read(length) if length else read_chunks(self.rfile)
                self.reply(data)

            def do_GET(self) -> None:
                self.reply(b"")

            def reply(self, data: bytes) -> None:
                outer.requests.append((self.path, self.headers.get("Authorization", ""), data))
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body.encode())

            def log_message(self, *_: object) -> None: ...

        self.http = _QuietServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.http.socket = tls.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def destination(self) -> DestinationSettings:
        return DestinationSettings(name="web", url=f"http://127.0.0.1:{self.http.server_port}/dicom-web")

    def over_tls(
        self, identity: TlsSettings, host: str = "127.0.0.1", *, tls: bool = False
    ) -> DestinationSettings:
        """Return it as a node knows it that trusts the authorities of `identity`, and with `tls` shows its certificate."""
        destination = DestinationSettings(
            name="web", url=f"https://{host}:{self.http.server_port}/dicom-web", tls=tls
        )
        destination.introduce(identity)
        return destination

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def read_chunks(stream: Any) -> bytes:
    data = b""
    while size := int(stream.readline(), 16):
        data += stream.read(size)
        stream.readline()
    stream.readline()
    return data


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_instances(tmp_path, 1)


def test_an_object_that_the_response_names_is_stored_as_the_file_is(
    server: Server, files: list[Path]
) -> None:
    [outcome] = stow_files(files, server.destination, timeout_s=10)
    [(path, authorization, body)] = server.requests
    assert (outcome.verdict, path, authorization) == ("ok", "/dicom-web/studies", "")
    assert files[0].read_bytes()[132:] in body


@pytest.mark.parametrize(
    ("status", "body", "verdict", "words"),
    [
        (200, {}, "ok", "asked after by query"),
        (200, stored("2.25.9"), "ok", "asked after by query"),
        (202, failed(0xA700), "transient", "0xA700: out of resources"),
        (409, failed(0x0122), "permanent", "0x0122: SOP class not supported"),
        (409, failed(0xA900), "permanent", "0xA900"),
        (409, {}, "transient", "HTTP 409"),
        (503, {}, "transient", "HTTP 503"),
        (401, {}, "transient", "HTTP 401; see secret_file"),
        (404, {}, "permanent", "HTTP 404; see url"),
    ],
)
def test_what_a_response_means(
    server: Server, files: list[Path], status: int, body: dict[str, Any], verdict: str, words: str
) -> None:
    server.status, server.body = status, json.dumps(body)
    [outcome] = stow_files(files, server.destination, timeout_s=10)
    assert outcome.verdict == verdict
    assert words in outcome.reason


def test_a_server_that_is_away_is_tried_again(server: Server, files: list[Path]) -> None:
    away = server.destination
    server.http.server_close()
    [outcome] = stow_files(files, away, timeout_s=5)
    assert (outcome.verdict, outcome.reason) == (
        "transient",
        "the server cannot be reached (ConnectionError)",
    )


def test_a_token_and_a_password_come_from_their_files(
    server: Server, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("abc\n")
    (tmp_path / "password").write_text("node:secret\n")
    for key in ("token", "password"):
        stow_files(files, server.destination.model_copy(update={"secret_file": tmp_path / key}), timeout_s=10)
    assert [authorization for _, authorization, _ in server.requests] == [
        "Bearer abc",
        f"Basic {base64.b64encode(b'node:secret').decode()}",
    ]
    [outcome] = stow_files(
        files, server.destination.model_copy(update={"secret_file": tmp_path / "gone"}), timeout_s=10
    )
    assert (outcome.verdict, "cannot be read" in outcome.reason) == ("transient", True)


@pytest.fixture
def authority(tmp_path: Path, require_tool: Callable[[str], str]) -> Authority:
    return Authority(require_tool("openssl"), tmp_path / "ca")


def secured(identity: Identity, callers: Authority | None = None) -> ssl.SSLContext:
    """Return a server's context; with `callers` it wants a certificate of theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    if callers is not None:
        context.load_verify_locations(callers.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def https(context: ssl.SSLContext) -> Iterator[Server]:
    running = Server(context)
    try:
        yield running
    finally:
        running.stop()


def test_https_with_an_authority_of_our_own(authority: Authority, files: list[Path]) -> None:
    trusted = TlsSettings(authorities=authority.certificate)
    with https(secured(authority.issue("pacs"))) as server:
        [outcome] = stow_files(files, server.over_tls(trusted), timeout_s=10)
        probe = probe_web(server.over_tls(trusted), 10)
        requests = server.requests
    assert (outcome.verdict, probe.verdict) == ("ok", "ok")
    assert files[0].read_bytes()[132:] in requests[0][2]


def test_https_shows_our_certificate_where_it_is_wanted(authority: Authority, files: list[Path]) -> None:
    node = authority.issue("node")
    ours = TlsSettings(certificate=node.certificate, key=node.key, authorities=authority.certificate)
    with https(secured(authority.issue("pacs"), authority)) as server:
        [shown] = stow_files(files, server.over_tls(ours, tls=True), timeout_s=10)
        [hidden] = stow_files(files, server.over_tls(ours), timeout_s=10)
    assert shown.verdict == "ok"
    assert hidden.verdict == "transient"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("certificate", "host", "words"),
    [
        (
            {},
            "127.0.0.1",
            "was signed by an authority that is not in tls.authorities; add that authority, or give the peer another",
        ),
        (
            {"alternatives": "DNS:elsewhere.example"},
            "127.0.0.1",
            "is another one; use a name of its certificate in destinations.url",
        ),
        ({"days": -1}, "127.0.0.1", "has expired; renew it there"),
    ],
    ids=["foreign authority", "other name", "expired"],
)
def test_a_wrong_certificate_is_named_and_nothing_is_sent(
    authority: Authority,
    files: list[Path],
    tmp_path: Path,
    certificate: dict[str, Any],
    host: str,
    words: str,
) -> None:
    trusted = (
        authority if certificate else Authority(authority._openssl, tmp_path / "other", "Other Authority")
    )
    with https(secured(authority.issue("pacs", **certificate))) as server:
        destination = server.over_tls(TlsSettings(authorities=trusted.certificate), host)
        [outcome] = stow_files(files, destination, timeout_s=10)
        probe = probe_web(destination, 10)
        found = find_by_qido(destination, [InstanceKey("2.25.1", "2.25.2", UID)], timeout_s=10)
    assert outcome.verdict == "transient"
    assert words in outcome.reason
    assert words in probe.reason
    assert words in getattr(found, "reason", "")
    assert server.requests == []


def test_a_pinned_certificate_or_name_is_the_only_one_taken(authority: Authority, files: list[Path]) -> None:
    elsewhere = authority.issue("pacs", alternatives="DNS:elsewhere.example")
    right = [{"tls_fingerprint": fingerprint_of(elsewhere.certificate)}, {"tls_name": "elsewhere.example"}]
    wrong = [{"tls_fingerprint": fingerprint_of(authority.certificate)}, {"tls_name": "127.0.0.1"}]
    with https(secured(elsewhere)) as server:
        at = server.over_tls(TlsSettings(authorities=authority.certificate))
        taken = [stow_files(files, at.model_copy(update=settings), timeout_s=10)[0] for settings in right]
        refused = [stow_files(files, at.model_copy(update=settings), timeout_s=10)[0] for settings in wrong]
    assert [one.verdict for one in taken] == ["ok", "ok"]
    assert {one.reason for one in refused} == {
        "no TLS connection: it showed another certificate; compare tls_fingerprint and tls_name with it"
    }
    assert len(server.requests) == 2


def test_a_server_without_tls_is_told_apart(server: Server, authority: Authority, files: list[Path]) -> None:
    [outcome] = stow_files(
        files, server.over_tls(TlsSettings(authorities=authority.certificate)), timeout_s=10
    )
    assert outcome.verdict == "transient"
    assert "does the server speak HTTPS on that port?" in outcome.reason


def test_what_a_query_lists_counts_only_when_it_is_what_was_asked_for(server: Server) -> None:
    key = InstanceKey("2.25.1", "2.25.2", UID)
    server.body = json.dumps([{"00080018": {"vr": "UI", "Value": [UID]}}])
    assert find_by_qido(server.destination, [key], timeout_s=10) == {UID}
    server.body = json.dumps([{"00080018": {"vr": "UI", "Value": ["2.25.9"]}}])
    assert find_by_qido(server.destination, [key], timeout_s=10) == frozenset()
    server.status = 501
    outcome = find_by_qido(server.destination, [key], timeout_s=10)
    assert getattr(outcome, "reason", "") == "the server does not offer QIDO-RS"
    server.status = 403
    assert "HTTP 403" in probe_web(server.destination, 10).reason


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "http://pacs.example/dicom-web"}, "readable on the way"),
        ({"url": "https://u:p@pacs.example/"}, "belong into secret_file"),
        ({"url": "ftp://pacs.example/"}, "not of the form"),
        ({"url": "https://pacs.example/", "confirm": "commitment"}, "no storage commitment"),
        ({"ae_title": "PACS"}, "host, port missing"),
        ({"ae_title": "PACS", "host": "a", "port": 1, "secret_file": "x"}, "needs a url"),
    ],
)
def test_a_destination_is_one_or_the_other(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_config({"destinations": [{"name": "web", **settings}]})


def test_the_instance_of_these_tests_is_the_file_that_is_sent(files: list[Path]) -> None:
    assert dcmread(files[0]).SOPInstanceUID == UID
