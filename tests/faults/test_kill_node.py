"""`kill -9` of both sides of a node at random moments while studies arrive: nothing that was acknowledged is lost, every
study gets exactly one set of results. Real processes, real associations, the bundled networks."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomnode.config import DestinationSettings
from dicomnode.demo import DEMO_STUDY, write_study
from dicomnode.errors import NodeError
from dicomnode.network.sender import send_files
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.simulator.node import AE_TITLE, NodeProcesses, Side

pytestmark = [pytest.mark.slow, pytest.mark.faults]

STUDIES = 5
KILLS = 8
SEED = 20261121


class Scanner:
    """Sends a study and, as a scanner does, sends again what was not acknowledged."""

    def __init__(self, node: NodeProcesses) -> None:
        self.node = node
        self.acknowledged: set[str] = set()

    def push(self, paths: list[Path]) -> None:
        waiting = list(paths)
        end = time.monotonic() + 120
        while waiting and time.monotonic() < end:
            try:
                peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.node.port(5))
            except NodeError:  # Killed just now; it comes back.
                time.sleep(0.2)
                continue
            outcomes = send_files(waiting, peer, calling_ae="SCANNER", timeout_s=20)
            taken = {path for path, outcome in zip(waiting, outcomes, strict=True) if outcome.verdict == "ok"}
            self.acknowledged |= {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in taken}
            waiting = [path for path in waiting if path not in taken]
        assert not waiting, f"{len(waiting)} instances were never acknowledged"


def kill_at_random(node: NodeProcesses, stop: threading.Event, kills: list[Side]) -> None:
    rng = random.Random(SEED)
    for _ in range(KILLS):
        if stop.wait(rng.uniform(0.5, 6.0)):
            return
        side: Side = rng.choice(("receive", "work"))
        node.kill(side)
        time.sleep(rng.uniform(0.0, 0.5))
        node.start(side)
        kills.append(side)


def results_at(archive: Path) -> dict[str, dict[str, set[str]]]:
    """Study -> SOP class name -> SOP instance UIDs."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in archive.rglob("*.dcm"):
        instance = pydicom.dcmread(path, stop_before_pixels=True)
        found[instance.StudyInstanceUID][instance.Modality].add(instance.SOPInstanceUID)
    return found


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_and_every_study_is_answered_once(tmp_path: Path) -> None:
    data = np.load(DEMO_STUDY)
    uids = [derive_uid("kill test", number) for number in range(STUDIES)]
    studies = [write_study(data, tmp_path / "studies" / str(number), uid) for number, uid in enumerate(uids)]
    kills: list[Side] = []
    stop = threading.Event()
    with Archive(tmp_path / "pacs") as archive, NodeProcesses(tmp_path, archive.ae_title, archive.port) as node:
        node.port()
        killer = threading.Thread(target=kill_at_random, args=(node, stop, kills))
        killer.start()
        scanner = Scanner(node)
        for paths in studies:
            scanner.push(paths)
        killer.join()
        end = time.monotonic() + 600
        while time.monotonic() < end and not all({"SEG", "SR"} <= results_at(tmp_path / "pacs")[uid].keys() for uid in uids):
            time.sleep(1)
        time.sleep(3)  # A second set of results would follow the first at once.
        node.check()
    stored = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in (node.root / "spool").rglob("*.dcm")}

    assert len(kills) == KILLS
    assert scanner.acknowledged == {str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for paths in studies for p in paths}
    assert scanner.acknowledged <= stored
    answered = results_at(tmp_path / "pacs")
    assert {uid: {kind: len(found) for kind, found in answered[uid].items()} for uid in uids} == {uid: {"SEG": 1, "SR": 1} for uid in uids}
