"""Studies an hour: many clinical studies sent at once, until the last answer is at the archive.

    python -m scripts.bench.throughput --studies 12

One node as shipped with one worker, and studies of 226 instances each (`scripts.bench.node`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from dicomnode.commands.demo import write_study
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from scripts.bench.node import OBJECTS, await_work, clinical_study, processes_below

ASKED_AN_HOUR = 600
ASKED_CPU_S = 6.0
PATIENCE_S = 900.0


def processor_s(pid: int) -> float:
    """Return user and system seconds of a process so far, with those of children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def node_processor_s(node: NodeProcesses) -> float:
    """Return the processor seconds of all processes of a node."""
    return sum(processor_s(pid) for side in ("receive", "work") for pid, _ in processes_below(node.pid(side)))


def main() -> int:
    """Print studies an hour and processor seconds a study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=12)
    count = parser.parse_args().studies
    voxels = clinical_study()
    with tempfile.TemporaryDirectory(prefix="dicomnode-bench-") as name:
        folder = Path(name)
        studies = [
            write_study(
                voxels,  # type: ignore[arg-type]
                folder / str(number),
                derive_uid("throughput", str(number)),
            )
            for number in range(count)
        ]
        with (
            Archive(folder / "pacs") as archive,
            NodeProcesses(folder / "node", archive.ae_title, archive.port) as node,
        ):
            peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=node.port())
            await_work(node)
            before_s, started = node_processor_s(node), time.monotonic()
            for images in studies:
                outcomes = send_files(images, peer, calling_ae="BENCH", timeout_s=60)
                assert all(outcome.verdict == "ok" for outcome in outcomes), "an instance was refused"
            while len(archive.received) < OBJECTS * count:
                node.check()
                assert time.monotonic() < started + PATIENCE_S, "not every study was answered"
                time.sleep(0.05)
            seconds = time.monotonic() - started
            processor = (node_processor_s(node) - before_s) / count
    an_hour = 3600 * count / seconds
    print(
        f"{count} studies answered in {seconds:.1f} s: {an_hour:.0f} an hour (asked {ASKED_AN_HOUR}), "
        f"{processor:.1f} processor s a study in the node (asked {ASKED_CPU_S:.0f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
