"""A small hospital for the fault tests: a scanner, a node in processes of its own, an archive; and the count of what became of every study."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pydicom

from dicomnode.errors import NodeError
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import write_series
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from tests.factories.head import head_series, study_uid

QUICK = "[study]\nquiet_s = 3\n[delivery]\nbackoff_first_s = 0.5\nbackoff_maximum_s = 2\ntimeout_s = 5\nconfirm_first_s = 0\n[compute]\nthreads = 1\n"
LIGHT = '[pipeline]\nlesion_model = "stroke-lesion-2mm"\nbias_correction = false\n'
"""What is lost, half done or done twice does not depend on the network: a study takes half the time."""


@dataclass(frozen=True)
class Counts:
    """What became of the instances and the studies of one test."""

    acknowledged: int
    lost: int
    studies: int
    unanswered: int
    twice: int


Settle = Callable[[str, int, Counts], None]
"""Notes what was injected, how often, and the counts afterwards."""


class Hospital:
    """A node and an archive while it is entered; leaving it ends the processes that it started.

    Parameters
    ----------
    folder
        Everything lies below it.
    archive
        The destination; it need not listen yet.
    settings
        More TOML for the node.
    """

    def __init__(self, folder: Path, archive: Archive, settings: str = QUICK + LIGHT) -> None:
        self.folder, self.archive = folder, archive
        self.node = NodeProcesses(folder, archive.ae_title, archive.port, settings)
        self.acknowledged: set[str] = set()
        self.studies: list[str] = []
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.node)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def write(self, name: str) -> list[Path]:
        """Write a study (a FLAIR of a head) of this name, which counts from now on."""
        self.studies.append(study_uid(name))
        return write_series(head_series("flair", name), self.folder / "studies" / name)

    def push(self, files: list[Path], patience_s: float = 120.0) -> None:
        """Send files and, as a scanner does, send again what was not acknowledged."""
        waiting = list(files)
        end = time.monotonic() + patience_s
        while waiting and time.monotonic() < end:
            try:
                peer = DestinationSettings(
                    name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.node.port(5)
                )
            except NodeError:  # Killed just now; it comes back.
                time.sleep(0.2)
                continue
            outcomes = send_files(waiting, peer, calling_ae="SCANNER", timeout_s=20)
            taken = {path for path, outcome in zip(waiting, outcomes, strict=True) if outcome.verdict == "ok"}
            with self._lock:
                self.acknowledged |= {_instance_uid(path) for path in taken}
            waiting = [path for path in waiting if path not in taken]
        assert not waiting, f"{len(waiting)} instances were never acknowledged"

    def reports(self) -> Counter[str]:
        """Return how many different reports the archive has of each study."""
        found: Counter[str] = Counter()
        for path in self.archive.folder.glob("*.dcm"):
            instance = pydicom.dcmread(path, specific_tags=["StudyInstanceUID", "Modality"])
            found[str(instance.StudyInstanceUID)] += instance.Modality == "SR"
        return found

    def wait_answered(self, timeout_s: float = 300.0) -> None:
        """Wait until the archive has a report of every study."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not set(self.studies) <= {
            uid for uid, count in self.reports().items() if count
        }:
            time.sleep(0.5)

    def count(self, settle_s: float = 3.0) -> Counts:
        """Return the counts; a second report would follow the first at once, so it waits a little."""
        time.sleep(settle_s)
        reports = self.reports()
        stored = {_instance_uid(path) for path in (self.node.root / "spool").rglob("*.dcm")}
        return Counts(
            len(self.acknowledged),
            len(self.acknowledged - stored),
            len(self.studies),
            sum(reports[uid] == 0 for uid in self.studies),
            sum(reports[uid] > 1 for uid in self.studies),
        )


def _instance_uid(path: Path) -> str:
    return str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
