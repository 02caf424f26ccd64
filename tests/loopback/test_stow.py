"""STOW-RS against a scripted server: what counts as stored, what is tried again, what stops, and who may be told a password."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.config import DestinationSettings, parse_config
from dicomnode.errors import ConfigError
from dicomnode.network.query import InstanceKey
from dicomnode.network.stow import find_by_qido, probe_web, stow_files
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
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.FailureReason = INSTANCE.SOPClassUID, UID, reason
    response.FailedSOPSequence = [item]
    return dict(response.to_json_dict())


class Server:
    """Answers every request with `status` and `body`; keeps what it was sent."""

    def __init__(self) -> None:
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

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def destination(self) -> DestinationSettings:
        return DestinationSettings(name="web", url=f"http://127.0.0.1:{self.http.server_port}/dicom-web")


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
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_instances(tmp_path, 1)


def test_an_object_that_the_response_names_is_stored_as_the_file_is(server: Server, files: list[Path]) -> None:
    [outcome] = stow_files(files, server.destination, timeout_s=10)
    [(path, authorization, body)] = server.requests
    assert (outcome.verdict, path, authorization) == ("ok", "/dicom-web/studies", "")
    assert files[0].read_bytes()[132:] in body


@pytest.mark.parametrize(
    ("status", "body", "verdict", "words"),
    [
        (200, {}, "transient", "does not name the object"),
        (200, stored("2.25.9"), "transient", "does not name the object"),
        (202, failed(0xA700), "transient", "0xA700: out of resources"),
        (409, failed(0x0122), "permanent", "0x0122: SOP class not supported"),
        (409, failed(0xA900), "permanent", "0xA900"),
        (409, {}, "transient", "HTTP 409"),
        (503, {}, "transient", "HTTP 503"),
        (401, {}, "permanent", "HTTP 401; see secret_file"),
        (404, {}, "permanent", "HTTP 404; see url"),
    ],
)
def test_what_a_response_means(server: Server, files: list[Path], status: int, body: dict[str, Any], verdict: str, words: str) -> None:
    server.status, server.body = status, json.dumps(body)
    [outcome] = stow_files(files, server.destination, timeout_s=10)
    assert outcome.verdict == verdict
    assert words in outcome.reason


def test_a_server_that_is_away_is_tried_again(server: Server, files: list[Path]) -> None:
    away = server.destination
    server.http.server_close()
    [outcome] = stow_files(files, away, timeout_s=5)
    assert (outcome.verdict, outcome.reason) == ("transient", "the server cannot be reached (ConnectionError)")


def test_a_token_and_a_password_come_from_their_files(server: Server, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    (tmp_path / "password").write_text("node:secret\n")
    for key in ("token", "password"):
        stow_files(files, server.destination.model_copy(update={"secret_file": tmp_path / key}), timeout_s=10)
    assert [authorization for _, authorization, _ in server.requests] == [
        "Bearer abc",
        f"Basic {base64.b64encode(b'node:secret').decode()}",
    ]
    [outcome] = stow_files(files, server.destination.model_copy(update={"secret_file": tmp_path / "gone"}), timeout_s=10)
    assert (outcome.verdict, "cannot be read" in outcome.reason) == ("transient", True)


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
