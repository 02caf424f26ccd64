"""A worker process that is killed each time it takes up a study, one that takes too long, and a network's file that was altered on disk."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest

from dicomnode.simulator.archive import Archive
from tests.factories.hospital import LIGHT, QUICK, Hospital, Settle

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

ATTEMPTS = 2
MODELS = Path(__file__).resolve().parents[2] / "models"


def why(hospital: Hospital, study: str) -> str:
    command = [sys.executable, "-m", "dicomnode", "why", study, "--config", str(hospital.node.config)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120).stdout


def computed_step(hospital: Hospital, study: str) -> str:
    """Return the step that the computation of the study's newest job is in; empty while nothing computes it."""
    with sqlite3.connect(hospital.node.root / "ledger.sqlite3", timeout=30) as connection:
        row = connection.execute(
            'SELECT step FROM jobs WHERE "StudyInstanceUID" = ? ORDER BY id DESC', (study,)
        ).fetchone()
    return str(row[0]) if row and row[0] else ""


def workers_of(hospital: Hospital) -> list[int]:
    """Return the processes that compute: below `work`, started by multiprocessing's spawn."""
    found, waiting = [], [hospital.node.pid("work")]
    while waiting:
        process = waiting.pop()
        with suppress(OSError):
            # A child is listed with the thread that started it.
            for listed in Path(f"/proc/{process}/task").glob("*/children"):
                waiting += [int(child) for child in listed.read_text().split()]
            if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


def has_a_network(process: int) -> bool:
    """Say whether a process has opened its networks; before that it computes nothing."""
    with suppress(OSError):
        return b"onnxruntime" in Path(f"/proc/{process}/maps").read_bytes()
    return False


def modalities(archive: Archive, study: str) -> list[str]:
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in archive.files]
    return sorted(instance.Modality for instance in found if instance.StudyInstanceUID == study)


def wait_until(what: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and not what():
        time.sleep(0.3)


def test_a_study_that_kills_its_worker_is_set_aside_and_the_next_is_answered(
    tmp_path: Path, settle: Settle
) -> None:
    settings = QUICK.replace("[compute]\n", f"[compute]\nattempts = {ATTEMPTS}\n") + LIGHT
    kills: set[int] = set()
    stop = threading.Event()
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive, settings) as hospital:
        hospital.node.port()

        def kill_whoever_computes() -> None:
            # As the kernel does when memory is out.
            while not stop.wait(0.05):
                if computed_step(hospital, hospital.studies[0]):
                    for process in filter(has_a_network, workers_of(hospital)):
                        with suppress(ProcessLookupError):
                            os.kill(process, signal.SIGKILL)
                            kills.add(process)
                    # The worker that takes its place is not killed before it computes, too.
                    while computed_step(hospital, hospital.studies[0]) and not stop.wait(0.05):
                        pass

        hospital.push(hospital.write("poison"))
        killer = threading.Thread(target=kill_whoever_computes)
        killer.start()
        wait_until(lambda: hospital.reports()[hospital.studies[0]] > 0, 400)
        stop.set()
        killer.join()
        hospital.push(hospital.write("after the poison"))
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()
        poison, sound = hospital.studies
        told = why(hospital, poison)

    settle("SIGKILL of the worker whenever it computes", len(kills), counts)
    assert len(kills) == ATTEMPTS
    assert modalities(archive, poison) == ["SR"]
    assert "failed" in told
    assert modalities(archive, sound) == ["SEG", "SR"]


def test_a_study_that_takes_too_long_is_set_aside_with_a_report(tmp_path: Path, settle: Settle) -> None:
    settings = QUICK.replace("[compute]\n", f"[compute]\nattempts = {ATTEMPTS}\njob_limit_s = 1\n")
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive, settings) as hospital:
        hospital.node.port()
        hospital.push(hospital.write("stuck"))
        hospital.wait_answered(400)
        counts = hospital.count()
        hospital.node.check()
        told = why(hospital, hospital.studies[0])

    settle("job limit of 1 s", ATTEMPTS, counts)
    assert modalities(archive, hospital.studies[0]) == ["SR"]
    assert "failed" in told


def test_an_altered_network_never_makes_a_mask(tmp_path: Path, settle: Settle) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS, models)
    file = next(models.glob("stroke-lesion-2mm/*/model.onnx"))
    settings = (
        QUICK.replace("[compute]\n", f"[compute]\nattempts = {ATTEMPTS}\n")
        + f'[pipeline]\nmodels = "{models}"\n'
    )
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive, settings) as hospital:
        hospital.node.port()
        hospital.push(hospital.write("before"))
        hospital.wait_answered()
        hospital.node.kill("work")
        content = bytearray(file.read_bytes())
        # One bit of one weight: the graph still loads.
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
        hospital.node.start("work")
        hospital.push(hospital.write("after"))
        wait_until(lambda: hospital.reports()[hospital.studies[1]] > 0 or hospital.node.ended("work"), 400)
        log = hospital.node.log.read_text()
        before, after = hospital.studies

        assert modalities(archive, before) == ["SEG", "SR"]
        assert "SEG" not in modalities(archive, after)
        assert "model.onnx" in log
        # Once the right file is back, the study that waited is answered.
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
        if hospital.node.ended("work"):
            hospital.node.start("work")
        hospital.wait_answered()
        counts = hospital.count()

    settle("one bit of model.onnx altered on disk", 1, counts)
