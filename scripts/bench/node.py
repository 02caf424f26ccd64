"""From the last instance to SEG and SR at the archive, by step, with the peak memory of each process.

Two studies, one after the other: the first comes to a node that has just said that it works, the second to
workers that have answered one.

The study is the synthetic demonstration head brought to clinical size: T1 of 192 sagittal slices at 1 mm,
FLAIR of 34 axial slices. Everything is real: two node processes, their worker process, associations, the
bundled networks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform

from dicomnode.commands.demo import DEMO_STUDY, write_study
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.simulator.node import AE_TITLE, NodeProcesses

T1_SHAPE = (192, 240, 240)
_WORKS = re.compile(r"\] working ")
_STEPS = "select step, step_since from jobs where StudyInstanceUID = ? and step is not null"
OBJECTS = 2
"""SEG and SR."""
MOMENTS = ("ready", "encoded", "sent")
"""Events of a study: its evidence is complete, its results are written, they are at the archive."""


def clinical_study() -> dict[str, np.ndarray]:
    """Return the demonstration study with its T1 on a 1 mm grid of 192 sagittal slices.

    The grid has about the same centre.
    """
    study = dict(np.load(DEMO_STUDY))
    source = study["t1_affine"]
    directions = source[:3, :3] / np.linalg.norm(source[:3, :3], axis=0)
    center_mm = source[:3, :3] @ ((np.array(study["t1"].shape) - 1) / 2) + source[:3, 3]
    target = np.eye(4)
    target[:3, :3] = directions
    target[:3, 3] = center_mm - directions @ ((np.array(T1_SHAPE) - 1) / 2)
    to_source = np.linalg.inv(source) @ target
    study["t1"] = np.rint(
        affine_transform(study["t1"].astype(np.float32), to_source, output_shape=T1_SHAPE, order=1)
    ).astype(np.uint16)
    study["t1_affine"] = target
    return study


def processes_below(pid: int) -> Iterator[tuple[int, str]]:
    """Yield (pid, command line) of a process and all below it."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.getpgid(int(folder.name)) == pid:
                    yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ProcessLookupError):
                continue


def peak_mb(pid: int) -> float:
    """Return the largest resident size that a process has had, in MiB (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(folder: Path) -> dict[str, Any]:
    """Run two studies through a node in `folder` and return the figures of each."""
    voxels = clinical_study()
    with Archive(folder / "pacs") as archive, NodeProcesses(folder, archive.ae_title, archive.port) as node:
        await_work(node)
        studies = {
            name: _answer_study(voxels, derive_uid("bench", name), folder / name, node, archive)
            for name in ("cold", "warm")
        }
        memory = {
            side: max(peak_mb(pid) for pid, _ in processes_below(node.pid(side)))
            for side in ("receive", "work")
        }
    return {"studies": studies, "peak_memory_mb": {side: round(value) for side, value in memory.items()}}


def await_work(node: NodeProcesses) -> None:
    """Return when `work` has said that it works, which it does once its worker is prepared."""
    started = time.monotonic()
    while not _WORKS.search(node.log.read_text()):
        node.check()
        assert time.monotonic() < started + 300, "the node did not begin to work"
        time.sleep(0.1)


def _answer_study(
    voxels: dict[str, np.ndarray], uid: str, folder: Path, node: NodeProcesses, archive: Archive
) -> dict[str, Any]:
    """Send one study, wait for its answer, and return when what was done, from the last instance on."""
    images = write_study(voxels, folder, uid)  # type: ignore[arg-type]  a mapping serves
    peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=node.port())
    arrived_before, started = len(archive.received), time.monotonic()
    outcomes = send_files(images, peer, calling_ae="BENCH", timeout_s=60)
    assert all(outcome.verdict == "ok" for outcome in outcomes), "an instance was not acknowledged"
    sent_at, sent = time.time(), time.monotonic()
    step_begins: dict[str, float] = {}
    with closing(sqlite3.connect(f"file:{node.root / 'ledger.sqlite3'}?mode=ro", uri=True)) as ledger:
        while len(archive.received) < arrived_before + OBJECTS:
            node.check()
            assert time.monotonic() < sent + 600, "no answer came"
            for step, begun_at in ledger.execute(_STEPS, (uid,)):
                step_begins.setdefault(step, round(begun_at - sent_at, 2))
            time.sleep(0.02)
    answered = time.monotonic()
    story = _tell(node, uid)
    moments = {event["event"]: event["at"] - sent_at for event in story["events"]}
    steps = Counter[str]()
    for step in story["jobs"][-1]["detail"]["steps"]:
        # Each member of an ensemble takes some of them.
        steps[step["name"]] += step["seconds"]
    return {
        "instances": len(images),
        "send_s": round(sent - started, 2),
        "last_instance_to_answer_s": round(answered - sent, 2),
        "step_begins_s": step_begins,
        "moments_s": {name: round(moments[name], 2) for name in MOMENTS if name in moments},
        "pipeline_steps_s": {name: round(seconds, 3) for name, seconds in steps.items()},
        "pipeline_s": round(sum(steps.values()), 2),
    }


def _tell(node: NodeProcesses, uid: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "dicomnode", "why", uid, "--json", "--config", str(node.config)]
    story: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return story


def main() -> None:
    """Print the figures as JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="dicomnode-bench-") as folder:
        figures = measure(Path(folder))
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
