"""Nobody without the certificate of this run gets anything out of the workers, and a killed worker leaves nothing."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed import LocalCluster

from dicomnode.compute import Compute
from dicomnode.errors import RetryLater, StartError
from dicomnode.processes.workers import claim_scratch, security_of, start_workers
from dicomnode.settings.config import ComputeSettings
from tests.factories.break_in import intrude, open_to_everybody
from tests.factories.certificates import Authority
from tests.factories.ports import process_tree


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_intruder_gets_into_a_cluster_without_certificates() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        open_to_everybody() as folder,
    ):
        port = int(cluster.scheduler_address.rpartition(":")[2])
        http = cluster.scheduler.http_server.port

        ways = intrude(folder / "marker", [port, http])

        assert f"{port}/tcp" in ways
        assert f"{http}/http" in ways
        assert (folder / "marker").exists()


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


@pytest.mark.slow
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
