"""The monitoring listener: what it answers over HTTP, and a whole node watched from outside."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicomnode.errors import PortError
from dicomnode.monitoring.listener import MonitoringListener
from dicomnode.monitoring.pages import Page
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from tests.factories.instances import write_instances


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


@pytest.fixture
def listener() -> Iterator[MonitoringListener]:
    def respond(path: str) -> Page:
        if path == "/broken":
            raise ZeroDivisionError("a value of a patient")
        return Page(200, "text/plain", path.encode())

    listening = MonitoringListener("127.0.0.1", 0, respond)
    listening.start()
    yield listening
    listening.stop()


def test_pages_come_with_length_and_without_caching(listener: MonitoringListener) -> None:
    status, body, headers = ask(listener.port, "/metrics?name=x")

    assert (status, body, headers["content-length"]) == (200, b"/metrics", "8")
    assert (headers["cache-control"], headers["server"]) == ("no-store", "dicomnode ")
    assert ask(listener.port, "/metrics", "HEAD")[:2] == (200, b"")
    assert ask(listener.port, "/metrics", "POST")[0] == 501


def test_a_fault_of_a_page_is_told_without_its_words_and_the_next_is_answered(
    listener: MonitoringListener,
) -> None:
    status, body, _ = ask(listener.port, "/broken")

    assert status == 500
    assert b"patient" not in body
    assert ask(listener.port, "/metrics")[0] == 200


def test_silent_callers_do_not_keep_others_out_for_long(
    listener: MonitoringListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.monitoring.listener._Handler.timeout", 0.25)
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(30)]
    try:
        end, status = time.monotonic() + 20, 0
        while status != 200 and time.monotonic() < end:
            try:
                status = ask(listener.port, "/metrics")[0]
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
        assert status == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_port_that_is_taken_is_named(listener: MonitoringListener) -> None:
    with pytest.raises(PortError, match=r"monitoring\.port"):
        MonitoringListener("127.0.0.1", listener.port, lambda _path: Page(200, "", b""))


def eventually(condition: Callable[[], bool], timeout_s: float = 120) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_whole_node_is_watched_over_the_death_of_a_side(tmp_path: Path) -> None:
    root, path = tmp_path / "node", tmp_path / "node.toml"
    path.write_text(
        f'[storage]\nroot = "{root}"\nminimum_free_mb = 1\n[network]\nport = 0\n'
        "[study]\nquiet_s = 4\n[monitoring]\nenabled = true\nport = 0\nsilent_s = 30\n"
    )

    def announced(side: str) -> dict[str, object]:
        try:
            return dict(json.loads((root / f"{side}.json").read_text()))
        except FileNotFoundError:
            return {}

    with (tmp_path / "log").open("wb") as output:
        command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(path)]
        node = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        assert eventually(lambda: bool(announced("monitor")) and bool(announced("receive")))
        port = int(str(announced("monitor")["port"]))

        def value(name: str, **labels: str) -> float:
            families = text_string_to_metric_families(ask(port, "/metrics")[1].decode())
            return sum(
                sample.value
                for family in families
                for sample in family.samples
                if sample.name == f"dicomnode_{name}" and labels.items() <= sample.labels.items()
            )

        assert eventually(lambda: ask(port, "/readyz")[0] == 200)
        peer = DestinationSettings(
            name="node", ae_title="DICOMNODE", host="127.0.0.1", port=int(str(announced("receive")["port"]))
        )
        files = write_instances(tmp_path / "files", 3)
        assert {outcome.status for outcome in send_files(files, peer, calling_ae="ANY", timeout_s=30)} == {0}
        wrong = peer.model_copy(update={"ae_title": "NOBODY"})
        assert send_files(files[:1], wrong, calling_ae="ANY", timeout_s=30)[0].verdict != "ok"

        assert value("instances_received_total", kind="new") == 3
        assert eventually(lambda: value("studies_answered_total", outcome="refused") == 1)
        assert eventually(lambda: value("refused_total", reason="called AE title not recognized") == 1)

        os.kill(int(str(announced("receive")["pid"])), signal.SIGKILL)
        assert eventually(lambda: value("process_starts_total", side="receive") == 2)
        assert value("instances_received_total", kind="new") == 3
        assert value("process_starts_total", side="work") == 1
        node.terminate()
        assert node.wait(60) == 0
        assert not (root / "monitor.json").exists()
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()
