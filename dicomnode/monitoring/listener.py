"""A small HTTP listener for monitoring programs: GET and HEAD, a few at once, nobody waits for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import structlog

from dicomnode.errors import PortError, where
from dicomnode.monitoring.pages import Page

log = structlog.get_logger()

# Who says nothing for so long is cut off.
_TIMEOUT_S = 10.0
# Requests that are answered at once; more are cut off.
_AT_ONCE = 8


class MonitoringListener:
    """Serves pages from threads of its own.

    Parameters
    ----------
    bind, port
        Where to listen; port 0 takes a free one.
    respond
        Path -> page; what it raises is answered 500.

    Raises
    ------
    PortError
        The address cannot be listened on.
    """

    def __init__(self, bind: str, port: int, respond: Callable[[str], Page]) -> None:
        try:
            self._server = _Server((bind, port), respond)
        except (OSError, OverflowError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise PortError(
                f"cannot listen on {bind}:{port}: {reason}; set monitoring.bind and monitoring.port"
            ) from problem
        self.host, self.port = str(self._server.server_address[0]), int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the listener's thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], respond: Callable[[str], Page]) -> None:
        self.respond = respond
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._turns.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._turns.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: who hung up, or sent nonsense, is no concern of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S
    server_version, sys_version = "dicomnode", ""

    def do_GET(self) -> None:
        """Answer a page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer a page without its body."""
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Log nothing: a scrape every few seconds says nothing."""

    def _answer(self, *, with_body: bool) -> None:
        try:
            page = self.server.respond(urlsplit(self.path).path)
        except Exception as bug:  # noqa: BLE001  a fault of one page must not end the listener
            log.error("page_failed", where=where(bug), error=type(bug).__name__)  # noqa: TRY400
            page = Page(500, "text/plain; charset=utf-8", b"a fault of the node; its log says more\n")
        self.send_response(page.status)
        for name, value in (
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(page.body)
