"""Nobody without the certificate of this run gets anything out of the processes of a node, and a killed worker leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from dicomnode.compute import Compute
from dicomnode.errors import RetryLater, StartError
from dicomnode.processes.workers import claim_scratch, security_of, start_workers
from dicomnode.settings.config import ComputeSettings
from tests.factories.certificates import Authority
from tests.factories.ports import listening_ports, process_tree

INTRUDER = Path(__file__).parent.parent / "factories" / "intruder.py"
NOBODY = 65534


@pytest.fixture
def marker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file that an intruder of any uid could write."""
    with tempfile.TemporaryDirectory(prefix="intruder-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder) / "marker"


def intrude(marker: Path, ports: list[int]) -> list[str]:
    """Run the intruder, as another uid where this test may become one; return the ways that were open."""
    command = [sys.executable, str(INTRUDER), str(NOBODY), str(marker), *map(str, ports)]
    environment = {**os.environ, "HOME": str(marker.parent)}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=True)
    return answer.stdout.split()


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.timeout(200)
def test_the_intruder_gets_into_a_cluster_without_certificates(marker: Path) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        port = int(cluster.scheduler_address.rpartition(":")[2])
        http = cluster.scheduler.http_server.port

        ways = intrude(marker, [port, http])

    assert f"{port}/tcp" in ways
    assert f"{http}/http" in ways
    assert marker.exists()


@pytest.mark.timeout(200)
def test_no_port_of_a_running_node_lets_a_local_user_in(tmp_path: Path, marker: Path) -> None:
    root, config = tmp_path / "node", tmp_path / "node.toml"
    config.write_text(f'[storage]\nroot = "{root}"\nminimum_free_mb = 1\n[network]\nport = 0\n')
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "dicomnode", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert eventually(
            lambda: (root / "receive.json").exists() and b"working" in (tmp_path / "log").read_bytes()
        )
        dicom = json.loads((root / "receive.json").read_text())["port"]
        ports = listening_ports(process.pid)
        compute_ports = [listener.port for listener in ports if listener.port != dicom]
        # The scheduler, the nanny and its worker.
        assert len(compute_ports) == 3
        assert all(listener.is_loopback for listener in ports)

        ways = intrude(marker, compute_ports)

        assert ways == []
        assert not marker.exists()
    finally:
        process.terminate()
        process.wait(40)


@pytest.fixture
def authority(tmp_path: Path, require_tool: Callable[[str], str]) -> Authority:
    return Authority(require_tool("openssl"), tmp_path / "authority")


def site_settings(
    authority: Authority, scheduler: str, owner: Authority | None = None, password: str = ""
) -> ComputeSettings:
    pair = (owner or authority).issue("node", password=password)
    return ComputeSettings(
        scheduler=scheduler, certificate=pair.certificate, key=pair.key, authorities=authority.certificate
    )


def add_one(number: int) -> int:
    return number + 1


def test_a_scheduler_elsewhere_takes_its_authoritys_certificates_only(
    authority: Authority, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    pair = authority.issue("workers")
    security = security_of(str(pair.certificate), str(pair.key), str(authority.certificate))
    with start_workers(600, 1, security, tmp_path / "scratch") as cluster:
        room = Compute(site_settings(authority, cluster.scheduler_address), timeout_s=20)
        assert room.run(add_one, 1, name="test", limit_s=60, tick=lambda: None) == 2
        assert room.worker_count == 1
        # A worker that joins later is used.
        with room.slot() as first, room.slot() as second:
            assert (first, second) == (True, False)
        cluster.scale(2)
        assert eventually(lambda: room.worker_count == 2)
        with room.slot() as first, room.slot() as second:
            assert (first, second) == (True, True)
        room.close()

        stranger = Authority(require_tool("openssl"), tmp_path / "stranger", "Another Authority")
        with pytest.raises(StartError, match=r"compute\.scheduler"):
            Compute(site_settings(authority, cluster.scheduler_address, stranger), timeout_s=3)


def test_a_key_with_a_password_is_named_and_never_asked_for(authority: Authority) -> None:
    with pytest.raises(StartError, match="has a password"):
        Compute(site_settings(authority, "tls://127.0.0.1:1", password="secret"), timeout_s=1)


def leave_files_and_die(folder: str) -> str:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"image")
    (Path(folder) / "where").write_text(file.name)
    os.kill(os.getpid(), signal.SIGKILL)
    return file.name


def name_a_temporary_file(_argument: int) -> str:
    return tempfile.mkdtemp()


def test_what_a_killed_worker_leaves_is_removed(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    room = Compute(ComputeSettings(memory_limit_mb=600), scratch=scratch)
    try:
        with pytest.raises(RetryLater):
            room.run(leave_files_and_die, str(tmp_path), name="test", limit_s=60, tick=lambda: None)
        left = Path((tmp_path / "where").read_text())
        assert left.is_relative_to(scratch)

        fresh = Path(room.run(name_a_temporary_file, 1, name="test", limit_s=60, tick=lambda: None))

        assert fresh.is_relative_to(scratch)
        assert not left.exists()
        assert fresh.exists()
    finally:
        room.close()


def test_the_scratch_folder_of_a_living_worker_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/tmp")
    locks = [claim_scratch(tmp_path) for _ in range(3)]
    assert len(list(tmp_path.iterdir())) == 3
    os.close(locks[0])
    os.close(locks[1])
    locks.append(claim_scratch(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    for lock in locks[2:]:
        os.close(lock)


def test_the_processes_of_a_tree_are_counted() -> None:
    assert os.getpid() in process_tree(os.getpid())
