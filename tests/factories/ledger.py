"""The life of a study as the ledger sees it: made-up instances, headers and results, and the steps that lead to each state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.records import AddOutcome, Conclusion, InstanceHeader, Job, ReceivedInstance, ResultFile
from dicomnode.states import Outcome

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
STUDY = "2.25.100"
LESION = {
    "label": 1,
    "volume_ml": 2.5,
    "laterality": "left",
    "centroid_lps_mm": [41.0, 9.0, 22.0],
    "mean_probability": 0.75,
}
ARCHIVE: Mapping[str, Sequence[str]] = {"pacs": ("seg", "sr")}


def received(
    number: int, content: str = "", at: float = 10.0, calling_ae: str = "SCANNER"
) -> ReceivedInstance:
    """Return an instance as reception lists it; other `content` is other bytes under the same UID."""
    sha256 = hashlib.sha256(f"{number}{content}".encode()).hexdigest()
    return ReceivedInstance(
        f"{STUDY}.9.{number}",
        MR,
        EXPLICIT_LITTLE,
        f"incoming/{sha256}.dcm",
        sha256,
        1000 + number,
        calling_ae,
        "10.0.0.7",
        at,
    )


def header(number: int, study: str = STUDY, series: int = 1) -> InstanceHeader:
    """Return the header of `received(number)`, with nested tuples, None and numbers in it."""
    return InstanceHeader(
        f"{STUDY}.9.{number}",
        MR,
        study,
        f"{study}.{series}",
        Modality="MR",
        Rows=5,
        Columns=7,
        PixelSpacing=(0.5, 0.75),
        orientations=((1.0, 0.0, 0.0, 0.0, 1.0, 0.0),),
        positions=((-1.5, 2.25, float(number)),),
        InstanceNumber=number,
        ImageType=("ORIGINAL", "PRIMARY"),
        SeriesDescription="t1 sag",
        SeriesNumber=series,
        extra={"mosaic": [4, 4]},
    )


def result(kind: str, revision: int = 1, data: bytes = b"") -> ResultFile:
    """Return a finished result; the SOP Instance UID is that of its study and kind, whatever the revision."""
    number = {"seg": 1, "sr": 2, "montage": 3}[kind]
    sha256 = hashlib.sha256(data or f"{kind}{revision}".encode()).hexdigest()
    return ResultFile(
        kind,
        f"results/{kind}-{revision}",
        sha256,
        f"{STUDY}.77.{number}",
        SEG if kind == "seg" else SR,
        f"{STUDY}.70.{number}",
    )


class LedgerStory:
    """Takes one study from step to step."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def receive(self, *numbers: int, at: float = 10.0, content: str = "") -> list[AddOutcome]:
        return [self.ledger.instances.add(received(number, content, at)) for number in numbers]

    def index(self, now: float = 11.0, study: str = STUDY) -> int:
        found = self.ledger.instances.unindexed(1000)
        for instance_id, instance in found:
            self.ledger.instances.record_header(
                instance_id, header(int(instance.SOPInstanceUID.rsplit(".", 1)[1]), study), now
            )
        return len(found)

    def waiting(self, *numbers: int) -> Job:
        self.receive(*(numbers or (1, 2)))
        self.index()
        return self.ledger.jobs.waiting()[-1]

    def ready(self, *numbers: int, now: float = 20.0) -> Job:
        job = self.waiting(*numbers)
        self.ledger.jobs.mark_ready(job.id, "complete by evidence", {"slices": 2}, now)
        return job

    def running(self, owner: str = "work:1", now: float = 30.0, lease_s: float = 60.0) -> Job:
        self.ready()
        job = self.ledger.jobs.claim(owner, now, lease_s)
        assert job is not None
        return job

    def encoded(
        self, destinations: Mapping[str, Sequence[str]] = ARCHIVE, owner: str = "work:1", now: float = 40.0
    ) -> Job:
        job = self.running(owner)
        self.finish(job, destinations, owner, now)
        return job

    def finish(
        self,
        job: Job,
        destinations: Mapping[str, Sequence[str]] = ARCHIVE,
        owner: str = "work:1",
        now: float = 40.0,
    ) -> None:
        files = [result(kind, job.revision) for kind in ("seg", "sr", "montage")]
        self.ledger.jobs.finish(
            job.id,
            owner,
            Conclusion(
                Outcome.LESIONS,
                "2 lesions",
                files,
                destinations,
                {"lesions": [LESION]},
            ),
            now,
        )

    def conclude(self, job: Job, outcome: Outcome, reason: str, now: float, owner: str = "work") -> None:
        self.ledger.jobs.finish(job.id, owner, Conclusion(outcome, reason, (), {}), now)

    def newest(self) -> dict[str, Any]:
        job: dict[str, Any] = plain(self.ledger.history.of_study(STUDY))["jobs"][-1]
        return job

    def delivery_states(self) -> list[str]:
        return [delivery["state"] for delivery in plain(self.ledger.history.of_study(STUDY))["deliveries"]]

    def happenings(self) -> list[str]:
        return [event["event"] for event in plain(self.ledger.history.of_study(STUDY))["events"]]


def release_owner(ledger: Ledger, owner_prefix: str, now: float) -> int:
    """Give back what dead owners held, as a start of the working side does; return how much that was."""
    return ledger.jobs.release_owner(owner_prefix, now) + ledger.deliveries.release_owner(owner_prefix, now)


def sqlite_url(folder: Path) -> str:
    """Return the URL of a ledger in a folder."""
    return f"sqlite:///{folder / 'ledger.sqlite3'}"


def new_ledger(folder: Path, name: str = "ledger") -> Ledger:
    """Open the ledger in a folder; a new one is a copy, which takes a tenth of the time of all migrations."""
    file = folder / f"{name}.sqlite3"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_migrated_ledger())
    return Ledger.open(f"sqlite:///{file}")


@cache
def _migrated_ledger() -> bytes:
    """Return the file of an empty ledger of the newest revision."""
    with TemporaryDirectory() as folder:
        Ledger.open(sqlite_url(Path(folder))).close()
        return (Path(folder) / "ledger.sqlite3").read_bytes()
