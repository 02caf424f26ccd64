"""Soak a node for as long as you like; see whether it stays flat and loses nothing.

Four senders bring whole and damaged studies, and junk.

    python -m scripts.soak [--minutes 60] [--pause-s 20] [--seed 20261126] [--json FILE]

Memory, threads, handles and temporary files of `receive` and `work` are sampled all the time; the slope is
that of a straight line through the samples of the second half. At the end everything acknowledged must be in
the spool and every whole study answered once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom

from dicomnode.commands.demo import DEMO_STUDY, write_study
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.simulator.node import AE_TITLE, NodeProcesses

SENDERS = 4
SAMPLE_S = 5.0
SETTINGS = "[study]\nquiet_s = 5\n[compute]\nthreads = 1\n"


class Load:
    """What four senders have done so far."""

    def __init__(self, port: int, folder: Path, seed: int, end: float, pause_s: float) -> None:
        self.peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=port)
        self.folder, self.seed, self.end, self.pause_s = folder, seed, end, pause_s
        self.acknowledged: set[str] = set()
        self.whole_studies: list[str] = []
        self.did: Counter[str] = Counter()
        self.lock = threading.Lock()

    def send(self, sender: int) -> None:
        """Send one study after the other until the time is over."""
        chance = random.Random(self.seed + sender)  # noqa: S311  a load, no secret
        data = np.load(DEMO_STUDY)
        number = 0
        while time.monotonic() < self.end:
            number += 1
            kind = chance.choices(("whole", "half", "junk", "cut off", "twice"), (4, 2, 2, 1, 1))[0]
            uid = derive_uid("soak", f"{self.seed} {sender} {number}")
            if kind in ("junk", "cut off"):
                self._junk(chance, cut_off=kind == "cut off")
            else:
                folder = self.folder / f"{sender}-{number}"
                files = write_study(data, folder, uid)
                files = files[: len(files) // 3] if kind == "half" else files
                for _ in range(2 if kind == "twice" else 1):
                    self._send(files)
                for file in files:
                    file.unlink()
                with self.lock:
                    self.whole_studies += [] if kind == "half" else [uid]
            with self.lock:
                self.did[kind] += 1
            time.sleep(chance.uniform(0, self.pause_s))

    def _send(self, files: list[Path]) -> None:
        left = list(files)
        for _ in range(5):
            outcomes = send_files(left, self.peer, calling_ae="SOAK", timeout_s=60)
            taken = {file for file, outcome in zip(left, outcomes, strict=True) if outcome.verdict == "ok"}
            uids = {
                str(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for file in taken
            }
            with self.lock:
                self.acknowledged |= uids
            left = [file for file in left if file not in taken]
            if not left:
                return

    def _junk(self, chance: random.Random, *, cut_off: bool) -> None:
        words = b"\x01\0\0\0\x10\0" if cut_off else chance.randbytes(chance.randint(0, 4000))
        try:
            with socket.create_connection((self.peer.host, self.peer.port), 5) as connection:
                connection.sendall(words)
        except OSError:
            self.did["junk cut off by the node"] += 1


def sample(node: NodeProcesses) -> dict[str, float]:
    """Return memory (MiB), threads and handles of each side and of the worker processes.

    The number of temporary files is counted as well.
    """
    found: dict[str, float] = {"temporary files": len(list(node.root.rglob("*.part")))}
    for who, processes in _who_is_who(node).items():
        for name in ("memory", "threads", "handles"):
            found[f"{who} {name}"] = 0.0
        for process in processes:
            try:
                status = Path(f"/proc/{process}/status").read_text()
                found[f"{who} memory"] += int(status.split("VmRSS:")[1].split()[0]) / 1024
                found[f"{who} threads"] += int(status.split("Threads:")[1].split()[0])
                found[f"{who} handles"] += len(list(Path(f"/proc/{process}/fd").iterdir()))
            except (OSError, IndexError):
                continue
    return found


def _who_is_who(node: NodeProcesses) -> dict[str, list[int]]:
    receive, (work, *below) = _family(node.pid("receive")), _family(node.pid("work"))
    return {"receive": receive, "work": [work], "workers": below}


def _family(process: int) -> list[int]:
    family = [process]
    for member in family:
        # A child is listed with the thread that started it.
        for listed in Path(f"/proc/{member}/task").glob("*/children"):
            with suppress(OSError):
                family += [int(child) for child in listed.read_text().split()]
    return family


def slopes(samples: list[tuple[float, dict[str, float]]]) -> dict[str, tuple[float, float]]:
    """Return per figure its median and its growth per hour over the second half."""
    half = samples[len(samples) // 2 :]
    at_h = np.array([at for at, _ in half]) / 3600
    table = {}
    for name in half[0][1]:
        values = np.array([figures[name] for _, figures in half])
        table[name] = (
            float(np.median(values)),
            float(np.polyfit(at_h, values, 1)[0]) if len(half) > 2 else 0.0,
        )
    return table


def soak(minutes: float, seed: int, folder: Path, pause_s: float = 20.0) -> dict[str, object]:
    """Run, and return what was seen."""
    with (
        Archive(folder / "pacs") as archive,
        NodeProcesses(folder, archive.ae_title, archive.port, SETTINGS) as node,
    ):
        began = time.monotonic()
        load = Load(node.port(120), folder / "studies", seed, began + 60 * minutes, pause_s)
        senders = [threading.Thread(target=load.send, args=(number,)) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        samples = []
        while any(sender.is_alive() for sender in senders):
            samples.append((time.monotonic() - began, sample(node)))
            node.check()
            time.sleep(SAMPLE_S)
        patience = time.monotonic() + 600 + 60 * minutes
        while time.monotonic() < patience and not set(load.whole_studies) <= set(_answered(folder / "pacs")):
            time.sleep(2)
        node.check()
        stored = {
            str(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            for file in node.root.rglob("incoming/*/*.dcm")
        }
        answers = _answered(folder / "pacs")
    return {
        "minutes": minutes,
        "seed": seed,
        "longest_pause_s": pause_s,
        "load_average": round(os.getloadavg()[0], 1),
        "sent": dict(load.did),
        "acknowledged": len(load.acknowledged),
        "lost": len(load.acknowledged - stored),
        "whole_studies": len(load.whole_studies),
        "unanswered": len(set(load.whole_studies) - set(answers)),
        "answered_twice": sum(answers[uid] > 1 for uid in load.whole_studies),
        "samples": len(samples),
        "median_and_growth_per_hour": {
            name: [round(figure, 1) for figure in pair] for name, pair in slopes(samples).items()
        },
    }


def _answered(folder: Path) -> Counter[str]:
    """Return how many reports the archive has per study."""
    found: Counter[str] = Counter()
    for file in folder.glob("*.dcm"):
        instance = pydicom.dcmread(file, specific_tags=["StudyInstanceUID", "Modality"])
        found[str(instance.StudyInstanceUID)] += instance.Modality == "SR"
    return found


def main() -> int:
    """Measure and print; 1 when something was lost, unanswered or answered twice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--pause-s", type=float, default=20.0, help="each sender waits up to so long between studies"
    )
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        report = soak(options.minutes, options.seed, Path(name), options.pause_s)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["lost"] or report["unanswered"] or report["answered_twice"] else 0


if __name__ == "__main__":
    sys.exit(main())
