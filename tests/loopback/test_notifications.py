"""`dicomnode monitor` tells a real HTTP service, over restarts and with the command that tries it."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dicomnode.ledger.ledger import Ledger
from dicomnode.records import Conclusion
from dicomnode.settings.config import load_config
from dicomnode.states import Outcome
from tests.factories import listening
from tests.factories.ledger import header, received

# A whole node takes its time on a busy machine.
eventually = functools.partial(listening.eventually, timeout_s=90)

Message = dict[str, str]


@pytest.fixture
def service() -> Iterator[tuple[int, list[Message]]]:
    """A web hook: its port, and what it was sent."""
    messages: list[Message] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_address[1]), messages
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(tmp_path: Path, service: tuple[int, list[Message]]) -> Path:
    (tmp_path / "addresses").write_text(f"json://127.0.0.1:{service[0]}/hook\n")
    path = tmp_path / "node.toml"
    path.write_text(
        f'[storage]\nroot = "{tmp_path / "node"}"\nminimum_free_mb = 1\n'
        f'[[notifications]]\nname = "hook"\naddresses_file = "{tmp_path / "addresses"}"\nevents = ["failed"]\n'
    )
    return path


def fail(config: Path, number: int) -> str:
    """Have a study answered with a failure, as the working side does."""
    uid, now = f"2.25.{number}", time.time()
    with closing(Ledger.open(load_config(config).storage.database_url)) as ledger:
        ledger.instances.add(received(number, at=now))
        ((instance_id, _),) = ledger.instances.unindexed(10)
        ledger.instances.record_header(instance_id, header(number, uid), now)
        ledger.jobs.mark_ready(ledger.jobs.waiting()[0].id, "complete", {}, now)
        job = ledger.jobs.claim("work", now, 60)
        assert job is not None
        ledger.jobs.finish(job.id, "work", Conclusion(Outcome.FAILED, "a reason", [], {}), now)
    return uid


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_failure_is_told_once_though_the_process_is_killed(
    tmp_path: Path, config: Path, service: tuple[int, list[Message]]
) -> None:
    messages = service[1]

    def started(log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            command = [sys.executable, "-P", "-m", "dicomnode", "monitor", "--config", str(config)]
            process = subprocess.Popen(command, stdout=output, stderr=output)
        assert eventually(lambda: b"monitoring" in log.read_bytes()), log.read_text()
        return process

    def began() -> bool:
        with closing(Ledger.open(load_config(config).storage.database_url)) as ledger:
            return "notices_read_until" in ledger.figures.read()

    def nothing_is_due() -> bool:
        with closing(Ledger.open(load_config(config).storage.database_url)) as ledger:
            return not ledger.notices.due(time.time())

    first = started(tmp_path / "log1")
    try:
        assert eventually(began)
        uid = fail(config, 1)
        # The moment between sending and writing down is the one in which a kill repeats a message.
        assert eventually(lambda: len(messages) == 1 and nothing_is_due())
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    missed = fail(config, 2)
    second = started(tmp_path / "log2")
    try:
        assert eventually(lambda: len(messages) == 2)
        time.sleep(20)
    finally:
        second.terminate()
        assert second.wait(30) == 0

    assert [uid in messages[0]["message"], missed in messages[1]["message"]] == [True, True]
    assert len(messages) == 2
    assert "could not be processed" in messages[0]["message"]
    assert messages[0]["title"].startswith("DICOMNODE at ")


@pytest.mark.slow
def test_the_command_tries_each_address_and_shows_none(
    config: Path, service: tuple[int, list[Message]], tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "dicomnode",
        "notifications",
        "test",
        "--config",
        str(config),
        "--json",
    ]
    taken = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    (tmp_path / "addresses").write_text("json://127.0.0.1:1/secret-token\n")
    away = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (taken.returncode, away.returncode) == (0, 1)
    assert [row["taken"] for row in json.loads(taken.stdout)] == ["ok"]
    assert len(service[1]) == 1
    assert "secret-token" not in away.stdout + away.stderr
