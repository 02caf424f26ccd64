"""A PostgreSQL server of a test's own, started and stopped by its process id; nothing of it outlives the test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The server refuses to run as root; it then runs as "nobody".
NOBODY = 65534
START_S = 60


def find_server() -> Path:
    """Return the folder of PostgreSQL's programs; skips where it, or the driver, is not there."""
    pytest.importorskip("psycopg", reason="psycopg (the extra `postgres`) is not installed")
    programs = [
        *Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        *map(Path, filter(None, [shutil.which("initdb")])),
    ]
    if not programs:
        pytest.skip("PostgreSQL (Debian: postgresql) is not installed")
    return programs[-1].parent


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server on the loopback address; yield the start of a SQLAlchemy URL, to which a database's name belongs."""
    programs = find_server()
    user = NOBODY if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        if user is not None:
            os.chown(folder, user, user)
        data = folder / "data"
        command = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "node",
            "-E",
            "UTF8",
            "--locale=C",
            "--auth=trust",
            "-N",
        ]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off")
        options = [word for setting in settings for word in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-p", str(port), *options],
                stdout=log,
                stderr=log,
                user=user,
                cwd=folder,
            )
        try:
            _wait(port)
            yield f"postgresql+psycopg://node@127.0.0.1:{port}/"
        finally:
            # Fast shutdown: whoever is connected is cut off.
            server.send_signal(signal.SIGINT)
            server.wait(30)


def make_database(server: str, name: str) -> str:
    """Make an empty database and return its SQLAlchemy URL."""
    import psycopg

    with psycopg.connect(server.replace("+psycopg", "") + "postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server + name


def _wait(port: int) -> None:
    import psycopg

    end = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(f"postgresql://node@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return
