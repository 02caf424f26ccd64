"""`dicomnode serve` as systemd runs it: two sides, restarted when they die, ended by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.network.sender import echo
from dicomnode.settings.config import DestinationSettings


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    config = tmp_path / "node.toml"
    config.write_text(f'[storage]\nroot = "{tmp_path / "node"}"\nminimum_free_mb = 1\n[network]\nport = 0\n')
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    yield process, tmp_path / "node"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def eventually(what: Callable[[], bool], timeout_s: float = 100) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return False


def listener(root: Path) -> dict[str, object]:
    try:
        return dict(json.loads((root / "receive.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


@pytest.mark.timeout(400)
def test_a_side_that_dies_is_started_again_and_sigterm_ends_both(
    node: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, root = node
    assert eventually(lambda: bool(listener(root)))
    first = listener(root)
    os.kill(int(str(first["pid"])), signal.SIGKILL)

    assert eventually(lambda: listener(root).get("pid") not in (None, first["pid"]))
    peer = DestinationSettings(
        name="node", ae_title="DICOMNODE", host="127.0.0.1", port=int(str(listener(root)["port"]))
    )
    assert echo(peer, "TESTER", 10).verdict == "ok"

    process.terminate()
    assert process.wait(40) == 0
    assert not (root / "receive.json").exists()


def test_two_nodes_do_not_share_a_root(node: tuple[subprocess.Popen[bytes], Path], tmp_path: Path) -> None:
    _, root = node
    assert eventually(lambda: bool(listener(root)))

    command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(tmp_path / "node.toml")]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)

    assert second.returncode == 3
    assert "another `dicomnode receive` works on" in second.stderr


@pytest.mark.slow
def test_a_side_that_hangs_is_killed_and_started_again(node: tuple[subprocess.Popen[bytes], Path]) -> None:
    _, root = node
    assert eventually(lambda: bool(listener(root)))
    first = listener(root)
    # Not dead: it holds its lock and its port, and does nothing any more. Its first words were heard before.
    time.sleep(1)
    os.kill(int(str(first["pid"])), signal.SIGSTOP)

    assert eventually(lambda: listener(root).get("pid") not in (None, first["pid"]), 110)
    peer = DestinationSettings(
        name="node", ae_title="DICOMNODE", host="127.0.0.1", port=int(str(listener(root)["port"]))
    )
    assert echo(peer, "TESTER", 10).verdict == "ok"


@pytest.mark.timeout(900)
def test_what_lies_in_the_working_folder_is_not_run_and_ready_is_said_when_it_works(tmp_path: Path) -> None:
    trap, marker = tmp_path / "trap", tmp_path / "marker"
    trap.mkdir()
    for name in ("socket", "multiprocessing", "dicomnode", "typer", "numpy"):
        (trap / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})\n")
    config, root = tmp_path / "node.toml", tmp_path / "node"
    config.write_text(f'[storage]\nroot = "{root}"\nminimum_free_mb = 1\n[network]\nport = 0\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as signs, (tmp_path / "log").open("wb") as log:
        signs.bind("")
        signs.settimeout(700)
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + signs.getsockname()[1:].decode()}
        # As the console script runs it: without the working folder in front.
        command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=trap, env=environment)
        try:
            while b"READY=1" not in (sign := signs.recv(4096)):
                assert sign.startswith(b"EXTEND_TIMEOUT_USEC=")
            assert listener(root)["port"]
            # The first worker is up.
            assert b"working" in (tmp_path / "log").read_bytes()
            assert b"workers=1" in (tmp_path / "log").read_bytes()
        finally:
            process.terminate()
            assert process.wait(150) == 0
    assert not marker.exists()


def test_a_side_that_cannot_start_hands_on_its_exit_code(tmp_path: Path) -> None:
    config, root = tmp_path / "node.toml", tmp_path / "node"
    root.mkdir()
    (root / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    config.write_text(f'[storage]\nroot = "{root}"\nminimum_free_mb = 1\n[network]\nport = 0\n')
    command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    assert "the ledger cannot be opened" in ended.stderr
