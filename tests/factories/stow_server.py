"""A DICOMweb service whose habits a test chooses: how it words its success, what it lists, whom it lets in."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

DICOM_JSON = "application/dicom+json"


@dataclass(frozen=True)
class Answer:
    """One HTTP response; a content type of None leaves the header out."""

    status: int = 200
    body: str = ""
    content_type: str | None = DICOM_JSON
    headers: dict[str, str] = field(default_factory=dict)


# SOP Instance UID, how often it was posted before -> the response.
Habit = Callable[[str, int], Answer]


def names_it(uid: str, **warning: int) -> dict[str, Any]:
    """Return the data set of a success that names an object."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if warning:
        item["00081196"] = {"vr": "US", "Value": [warning["warning"]]}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


def fails_it(uid: str, reason: int | str) -> dict[str, Any]:
    """Return the data set of a refusal."""
    item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


class StowServer:
    """Stores what is posted, unless `stores` says no, and lists it after so many queries."""

    def __init__(
        self, habit: Habit, *, stores: bool = True, listed_after: int = 0, qido_status: int = 200
    ) -> None:
        self.habit, self.stores, self.listed_after, self.qido_status = (
            habit,
            stores,
            listed_after,
            qido_status,
        )
        self.posts: list[str] = []
        self.queries: list[str] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                # The element SOP Instance UID in Explicit VR Little Endian.
                start = data.index(b"\x08\x00\x18\x00UI") + 6
                length = int.from_bytes(data[start : start + 2], "little")
                uid = data[start + 2 : start + 2 + length].decode("ascii").strip("\0 ")
                outer.paths.append(self.path)
                outer.posts.append(uid)
                self.reply(outer.habit(uid, outer.posts.count(uid) - 1))

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                uid = parse_qs(urlsplit(self.path).query).get("SOPInstanceUID", [""])[0]
                outer.queries.append(uid)
                is_listed = (
                    outer.stores and uid in outer.posts and outer.queries.count(uid) > outer.listed_after
                )
                entries = [{"00080018": {"vr": "UI", "Value": [uid]}}] if is_listed else []
                self.reply(Answer(outer.qido_status, json.dumps(entries) if outer.qido_status == 200 else ""))

            def reply(self, answer: Answer) -> None:
                self.send_response(answer.status)
                if answer.content_type is not None:
                    self.send_header("Content-Type", answer.content_type)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(answer.body.encode())))
                self.end_headers()
                self.wfile.write(answer.body.encode())

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Root of the service."""
        return f"http://127.0.0.1:{self.http.server_port}/dicom-web"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
