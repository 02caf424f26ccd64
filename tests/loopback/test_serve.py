"""`dicomnode serve` as systemd runs it: two sides, restarted when they die, ended by SIGTERM; nobody else gets in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicomnode.network.sender import echo
from dicomnode.settings.config import DestinationSettings
from tests.factories.break_in import intrude, open_to_everybody
from tests.factories.ports import listening_ports

# The first test that needs the node waits for its start.
pytestmark = pytest.mark.timeout(900)


@dataclass
class RunningNode:
    """A whole node that said READY=1, started in a folder full of traps."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    @property
    def root(self) -> Path:
        return self.folder / "node"

    @property
    def log(self) -> bytes:
        return (self.folder / "log").read_bytes()

    @property
    def traps_run(self) -> bool:
        """Whether a module of the working folder was run."""
        return (self.folder / "marker").exists()

    def listener(self) -> dict[str, object]:
        try:
            return dict(json.loads((self.root / "receive.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}


def start_node(folder: Path) -> RunningNode:
    """Start a node as systemd does and wait until it says that it is ready."""
    trap = folder / "trap"
    trap.mkdir()
    for name in ("socket", "multiprocessing", "dicomnode", "typer", "numpy"):
        (trap / f"{name}.py").write_text(f"open({str(folder / 'marker')!r}, 'a').write({name!r})\n")
    config = write_config(folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as signs, (folder / "log").open("wb") as log:
        signs.bind("")
        signs.settimeout(700)
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + signs.getsockname()[1:].decode()}
        # As the console script runs it: without the working folder in front.
        command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(config)]
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=trap, env=environment, start_new_session=True
        )
        try:
            while b"READY=1" not in (sign := signs.recv(4096)):
                assert sign.startswith(b"EXTEND_TIMEOUT_USEC=")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return RunningNode(process, folder)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningNode]]:
    """The nodes that tests of this module started, the last of which may still run."""
    started: list[RunningNode] = []
    yield started
    for node in started:
        if node.process.poll() is None:
            os.killpg(node.process.pid, signal.SIGKILL)
        node.process.wait()


@pytest.fixture
def node(nodes: list[RunningNode], tmp_path_factory: pytest.TempPathFactory) -> RunningNode:
    """A node that runs; a start takes seconds, so the tests use the same one until one of them ends it."""
    if not nodes or nodes[-1].process.poll() is not None:
        nodes.append(start_node(tmp_path_factory.mktemp("serve")))
    return nodes[-1]


def write_config(folder: Path) -> Path:
    config = folder / "node.toml"
    config.write_text(f'[storage]\nroot = "{folder / "node"}"\nminimum_free_mb = 1\n[network]\nport = 0\n')
    return config


def eventually(condition: Callable[[], bool], timeout_s: float = 100) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def assert_answers_again(node: RunningNode, lost_pid: object) -> None:
    """Another listener than the lost one answers a C-ECHO."""
    assert eventually(lambda: node.listener().get("pid") not in (None, lost_pid))
    peer = DestinationSettings(
        name="node", ae_title="DICOMNODE", host="127.0.0.1", port=int(str(node.listener()["port"]))
    )
    assert echo(peer, "TESTER", 10).verdict == "ok"


def test_what_lies_in_the_working_folder_is_not_run_and_ready_is_said_when_it_works(
    node: RunningNode,
) -> None:
    assert node.listener()["port"]
    # The first worker is up.
    assert b"working" in node.log
    assert b"workers=1" in node.log
    assert not node.traps_run


@pytest.mark.slow
def test_no_port_of_a_running_node_lets_a_local_user_in(node: RunningNode) -> None:
    ports = listening_ports(node.process.pid)
    compute_ports = [listener.port for listener in ports if listener.port != node.listener()["port"]]
    # The scheduler, the nanny and its worker.
    assert len(compute_ports) == 3
    assert all(listener.is_loopback for listener in ports)
    with open_to_everybody() as folder:
        assert intrude(folder / "marker", compute_ports) == []
        assert not (folder / "marker").exists()


def test_two_nodes_do_not_share_a_root(node: RunningNode) -> None:
    command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(node.config)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)

    assert second.returncode == 3
    assert "another `dicomnode receive` works on" in second.stderr


@pytest.mark.slow
def test_a_side_that_hangs_is_killed_and_started_again(node: RunningNode) -> None:
    first = node.listener()
    # Not dead: it holds its lock and its port, and does nothing any more. Its first words were heard before.
    time.sleep(1)
    os.kill(int(str(first["pid"])), signal.SIGSTOP)

    assert_answers_again(node, first["pid"])


def test_a_side_that_dies_is_started_again_and_sigterm_ends_both(node: RunningNode) -> None:
    first = node.listener()
    os.kill(int(str(first["pid"])), signal.SIGKILL)

    assert_answers_again(node, first["pid"])

    node.process.terminate()
    assert node.process.wait(150) == 0
    assert not (node.root / "receive.json").exists()
    assert not node.traps_run


def test_a_side_that_cannot_start_hands_on_its_exit_code(tmp_path: Path) -> None:
    config, root = write_config(tmp_path), tmp_path / "node"
    root.mkdir()
    (root / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    assert "the ledger cannot be opened" in ended.stderr
