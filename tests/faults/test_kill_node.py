"""`kill -9` of both sides of a node at random moments while studies arrive: nothing that was acknowledged is lost, every
study gets exactly one set of results. Real processes, real associations, the bundled networks."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicomnode.commands.demo import DEMO_STUDY, write_study
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.simulator.node import NodeProcesses, Side
from tests.factories.hospital import Hospital, Settle

pytestmark = [pytest.mark.slow, pytest.mark.faults]

STUDIES = 5
KILLS = int(os.environ.get("DICOMNODE_KILLS", "8"))
SEED = 20261121


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


@pytest.mark.timeout(900 + 20 * KILLS)
def test_nothing_acknowledged_is_lost_and_every_study_is_answered_once(
    tmp_path: Path, settle: Settle
) -> None:
    kills: list[Side] = []
    stop = threading.Event()
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive, "") as hospital:
        data = np.load(DEMO_STUDY)
        hospital.studies = [derive_uid("kill test", number) for number in range(STUDIES)]
        studies = [
            write_study(data, tmp_path / "studies" / str(number), uid)
            for number, uid in enumerate(hospital.studies)
        ]
        hospital.node.port()
        killer = threading.Thread(target=kill_at_random, args=(hospital.node, stop, kills))
        killer.start()
        for paths in studies:
            hospital.push(paths)
        killer.join()
        hospital.wait_answered(600)
        counts = hospital.count()
        hospital.node.check()
        everything = {
            str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
            for paths in studies
            for path in paths
        }
        results = Counter(
            (read.StudyInstanceUID, read.Modality) for read in map(pydicom.dcmread, archive.files)
        )

    assert len(kills) == KILLS
    assert hospital.acknowledged == everything
    settle("SIGKILL of receive or work with its workers", len(kills), counts)
    assert results == {(uid, kind): 1 for uid in hospital.studies for kind in ("SEG", "SR")}
