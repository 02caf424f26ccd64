"""The HTTP server of the pages: uvicorn in a thread, bounded in connections and time, without an access log.

An access log would hold addresses of studies next to those of people; the audit trail has what is needed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from typing import Any, cast

import uvicorn

from dicomnode.errors import PortError, StartError
from dicomnode.settings.config import Config
from dicomnode.web.guard import App

_MOST_CONNECTIONS = 200
_IDLE_S = 20
_START_S = 30.0
_STOP_S = 5


class PageServer:
    """Serves an application on `web.bind` and `web.port`."""

    def __init__(self, app: App, config: Config) -> None:
        self._config = config
        # Its loggers quote requests; what matters is logged by the guard, by keys.
        logging.getLogger("uvicorn").disabled = True
        logging.getLogger("uvicorn.error").disabled = True
        tls = config.tls
        self._server = uvicorn.Server(
            uvicorn.Config(
                cast("Any", app),
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_STOP_S,
                ssl_certfile=str(tls.certificate) if config.web.tls else None,
                ssl_keyfile=str(tls.key) if config.web.tls else None,
                ssl_keyfile_password=_key_password(config),
            )
        )
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)
        self._socket: socket.socket | None = None

    def start(self) -> str:
        """Listen, and return the address of the first page.

        Raises
        ------
        PortError
            The address is taken or not ours.
        StartError
            Certificate or key cannot be used.
        """
        settings = self._config.web
        family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
        # With the number of TCP: else asyncio leaves Nagle's algorithm on, and the body of each answer waits
        # some 40 ms for the browser to acknowledge the head.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((settings.bind, settings.port))
        except OSError as problem:
            raise PortError(
                f"web.bind, web.port: {settings.bind}:{settings.port} cannot be listened on: "
                f"{problem.strerror}"
            ) from None
        try:
            self._server.config.load()
        except (OSError, ssl.SSLError) as problem:
            raise StartError(f"web.tls: certificate or key cannot be used: {problem.strerror}") from None
        self._thread.start()
        end = time.monotonic() + _START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.02)
        if not self._server.started:
            raise StartError("the pages did not begin to be served; see the log")
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        return f"http{'s' if settings.tls else ''}://{host}:{self.port}/"

    @property
    def port(self) -> int:
        """The TCP port that is listened on; 0 before."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    def is_alive(self) -> bool:
        """Return whether the server's loop runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop listening; answers that are under way get some seconds."""
        self._server.should_exit = True
        self._thread.join(_STOP_S + 5)
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        sockets = None if self._socket is None else [self._socket]
        with contextlib.suppress(SystemExit):
            # Signals belong to the process, not to this thread.
            self._server.run(sockets=sockets)


def _key_password(config: Config) -> str | None:
    file = config.tls.key_password_file
    if not config.web.tls or file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except OSError as problem:
        raise StartError(f"tls.key_password_file: {file}: {problem.strerror}") from None
