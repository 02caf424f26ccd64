"""The rules of [fetch]: a study with half its series is completed from the PACS, priors come with it, counts are evidence once they stand still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode import flow
from dicomnode.compute import Compute
from dicomnode.fetch import plan_fetches, store_into
from dicomnode.ledger.shown import plain
from dicomnode.network.association import Receiver
from dicomnode.network.handlers import StoreRequest
from dicomnode.network.sender import send_files
from dicomnode.records import Role
from dicomnode.settings.config import DestinationSettings, parse_config
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import derive_uid, write_series
from dicomnode.simulator.manners import Manners
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.dicom import phantom_series
from tests.factories.head import study_uid
from tests.factories.ledger import new_ledger

UID = study_uid("fetch")
# What is looked at here are headers and counts: a few slices that still cover a head.
GRIDS: dict[Role, tuple[tuple[int, int, int], tuple[float, float, float]]] = {
    "t1": ((30, 24, 24), (5.5, 8.0, 8.0)),
    "flair": ((24, 20, 20), (6.5, 9.0, 9.0)),
}


def head_series(role: Role, study: str, **author: Any) -> list[Dataset]:
    shape, spacing_mm = GRIDS[role]
    uid = study_uid(study)
    frame = derive_uid(uid, "frame of reference")
    number = list(GRIDS).index(role) + 1
    return phantom_series(
        role,
        study_uid=uid,
        frame_of_reference_uid=frame,
        series_number=number,
        shape=shape,
        spacing_mm=spacing_mm,
        **author,
    ).instances


def head_study(study: str, **author: Any) -> list[Dataset]:
    return [instance for role in GRIDS for instance in head_series(role, study, **author)]


class Bench:
    """The working side up to "ready", with an archive to ask; the clock runs ahead, so that every study is quiet."""

    def __init__(
        self, folder: Path, archive: Archive, study: dict[str, Any] | None = None, **rules: Any
    ) -> None:
        pacs = {"name": "pacs", "ae_title": archive.ae_title, "host": "127.0.0.1", "port": archive.port}
        self.config = parse_config(
            {
                "network": {"ae_title": "NODE", "port": 0},
                "storage": {"root": str(folder), "minimum_free_mb": 1},
                "destinations": [pacs],
                "delivery": {"timeout_s": 10},
                "study": study or {},
                "fetch": {"source": "pacs", **rules},
            }
        )
        folder.mkdir()
        self.ledger = new_ledger(folder)
        self.ahead_s = 600.0
        layout = SpoolLayout(self.config.storage.spool)
        self.place = flow.Workplace(
            self.config,
            self.ledger,
            layout,
            cast("Compute", None),
            "work@here",
            lambda: time.time() + self.ahead_s,
        )
        self.store = store_into(self.config, self.ledger, time.time)

    def receive(self, files: list[Path]) -> None:
        for path in files:
            instance = dcmread(path)
            whole = path.read_bytes()
            dataset = whole[144 + instance.file_meta.FileMetaInformationGroupLength :]
            meta = instance.file_meta
            request = StoreRequest(
                meta.MediaStorageSOPClassUID,
                meta.MediaStorageSOPInstanceUID,
                meta.TransferSyntaxUID,
                dataset,
                "SCANNER",
                "127.0.0.1",
            )
            assert self.store(request) == 0x0000

    def step(self) -> int:
        """Return how many studies became ready; what may be computed ahead is none."""
        while flow.index_instances(self.place):
            pass
        waiting = len(self.ledger.jobs.waiting())
        flow.assess_studies(self.place)
        return waiting - len(self.ledger.jobs.waiting())

    def events(self, study: str = UID) -> list[tuple[str, str]]:
        found = plain(self.ledger.history.of_study(study))["events"]
        return [
            (event["event"], event["detail"].get("result", ""))
            for event in found
            if event["event"].startswith("fetch")
        ]

    def series(self) -> int:
        return len(plain(self.ledger.history.of_study(UID))["series"])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "pacs", manners=Manners(find="image", retrieve=frozenset({"get"}))) as running:
        yield running


def files_of(
    archive: Archive, folder: Path, role: Role, study: str = "fetch", keep: bool = True
) -> list[Path]:
    """Write a series; with `keep` the archive gets it too."""
    files = write_series(head_series(role, study), folder / study / role)
    if keep:
        put(archive, files)
    return files


def test_a_study_without_its_t1_gets_it_from_the_pacs_before_it_is_worked_on(
    archive: Archive, tmp_path: Path
) -> None:
    flair = files_of(archive, tmp_path / "images", "flair")
    t1 = files_of(archive, tmp_path / "images", "t1")
    bench = Bench(tmp_path / "node", archive)
    bench.receive(flair)
    assert bench.step() == 0
    assert bench.series() == 1
    assert flow.fetch_missing(bench.place) == 1
    bench.ahead_s += 10.0  # what was fetched has settled
    assert bench.step() == 1
    history = plain(bench.ledger.history.of_study(UID))
    assert set(history["jobs"][0]["detail"]["evidence"]["roles"]) == {"t1", "flair"}
    assert sum(series["instances"] for series in history["series"]) == len(flair) + len(t1)
    assert bench.events() == [("fetched", f"{len(t1)} images of 1 series by C-GET")]
    bench.ledger.close()


def test_a_pacs_that_has_no_more_holds_nothing_up(archive: Archive, tmp_path: Path) -> None:
    flair = files_of(archive, tmp_path / "images", "flair")
    bench = Bench(tmp_path / "node", archive)
    bench.receive(flair)
    assert bench.step() == 0
    flow.fetch_missing(bench.place)
    assert bench.step() == 1
    assert bench.events() == [
        ("fetched", f"not fetched: of the 1 series of study {UID} at ARCHIVE none is wanted")
    ]
    bench.ledger.close()


def test_a_pacs_that_is_away_is_asked_three_times_then_the_study_is_taken_as_it_is(
    archive: Archive, tmp_path: Path
) -> None:
    flair = files_of(archive, tmp_path / "images", "flair", keep=False)
    bench = Bench(tmp_path / "node", archive)
    archive.stop()
    bench.receive(flair)
    for _ in range(3):
        assert bench.step() == 0
        assert flow.fetch_missing(bench.place) == 1
        assert flow.fetch_missing(bench.place) == 0
        bench.ahead_s += 100
    assert bench.step() == 1
    assert [what for what, _ in bench.events()] == ["fetch-delayed", "fetch-delayed", "fetched"]
    bench.ledger.close()


def prior(
    archive: Archive, folder: Path, name: str, date: str, patient: str = "PHANTOM-HEAD", modality: str = "MR"
) -> str:
    """Put a study of one FLAIR into the archive; return its UID."""
    instances = head_series(
        "flair", name, overrides={"StudyDate": date, "PatientID": patient, "Modality": modality}
    )
    put(archive, write_series(instances, folder / name))
    return study_uid(name)


def put(archive: Archive, files: list[Path]) -> None:
    peer = DestinationSettings(name="pacs", ae_title=archive.ae_title, host="127.0.0.1", port=archive.port)
    assert {one.verdict for one in send_files(files, peer, calling_ae="SCANNER", timeout_s=20)} == {"ok"}


def today(folder: Path) -> list[Path]:
    """Write the T1 and FLAIR of the study that the node gets."""
    overrides = {"StudyDate": "20240501", "PatientID": "PHANTOM-HEAD"}
    return write_series(head_study("fetch", overrides=overrides), folder / "today")


@pytest.mark.slow
@pytest.mark.parametrize("service", ["get", "move"])
def test_the_latest_earlier_study_of_the_patient_comes_too_and_is_answered(
    archive: Archive, tmp_path: Path, service: str
) -> None:
    archive.manners.retrieve = frozenset({service})  # type: ignore[arg-type]
    archive.stop()
    archive.start()
    folder = tmp_path / "images"
    for name, date in (("older", "20200101"), ("later", "20250101"), ("same day", "20240501")):
        prior(archive, folder, name, date)
    prior(archive, folder, "other patient", "20240101", patient="SOMEBODY-ELSE")
    prior(archive, folder, "CT", "20240201", modality="CT")
    newest = prior(archive, folder, "newest", "20230101")
    bench = Bench(tmp_path / "node", archive, missing_series=False, prior_studies=1)
    with listening(bench, archive):
        bench.receive(today(folder))
        assert bench.step() == 0
        assert flow.fetch_missing(bench.place) == 1
        bench.ahead_s += 100
        # The study, and its prior like any other; what came as a prior has none fetched.
        assert bench.step() == 2
    assert {study["StudyInstanceUID"] for study in plain(bench.ledger.history.studies())} == {UID, newest}
    assert bench.events() == [("fetched", "1 earlier study")]
    assert bench.events(newest) == [("fetched", f"fetched as the prior of {UID}")]
    sent = {path.read_bytes() for path in (folder / "newest").iterdir()}
    kept = [bench.place.layout.root / one.path for one in bench.ledger.instances.of_study(newest)]
    assert len(kept) == len(sent)
    assert {dcmread(path).PixelData for path in kept} == {
        dcmread(path).PixelData for path in (folder / "newest").iterdir()
    }
    assert (
        {received["calling_ae"] for received in plain(bench.ledger.history.of_study(newest))["received"]}
    ) == {"ARCHIVE"}
    bench.ledger.close()


def test_a_patient_without_an_earlier_study_is_answered_at_once(archive: Archive, tmp_path: Path) -> None:
    files = today(tmp_path / "images")
    put(archive, files)
    prior(archive, tmp_path / "images", "later", "20250101")
    bench = Bench(tmp_path / "node", archive, prior_studies=2)
    bench.receive(files)
    assert bench.step() == 0
    assert flow.fetch_missing(bench.place) == 1
    assert bench.step() == 1
    assert bench.events() == [("fetched", "0 earlier studies")]
    bench.ledger.close()


def test_a_study_whose_priors_cannot_be_asked_for_is_answered_all_the_same(
    archive: Archive, tmp_path: Path
) -> None:
    archive.stop()
    bench = Bench(tmp_path / "node", archive, prior_studies=1)
    bench.receive(today(tmp_path / "images"))
    for _ in range(3):
        assert bench.step() == 0
        assert flow.fetch_missing(bench.place) == 1
        bench.ahead_s += 100
    assert bench.step() == 1
    whats = bench.events()
    assert [what for what, _ in whats] == ["fetch-delayed", "fetch-delayed", "fetched"]
    assert whats[-1][1].startswith("not fetched: the peer cannot be reached")
    bench.ledger.close()


def test_a_study_without_a_patient_id_is_answered_without_priors(archive: Archive, tmp_path: Path) -> None:
    files = write_series(head_series("flair", "fetch", overrides={"PatientID": ""}), tmp_path / "images")
    bench = Bench(tmp_path / "node", archive, missing_series=False, prior_studies=1)
    bench.receive(files)
    assert bench.step() == 0
    flow.fetch_missing(bench.place)
    assert bench.step() == 1
    assert bench.events() == [("fetched", "not fetched: the images name no Patient ID or Study Date")]
    bench.ledger.close()


def test_what_the_archive_lists_decides_whether_a_study_is_complete(archive: Archive, tmp_path: Path) -> None:
    # No header says how many images there are.
    files = write_series(head_study("fetch", overrides={"ImagesInAcquisition": None}), tmp_path / "images")
    put(archive, files)
    bench = Bench(tmp_path / "node", archive, {"short_quiet_s": 30}, missing_series=False, counts=True)
    bench.receive(files[:-2])
    bench.ahead_s = 5.0  # settled, and not yet quiet
    assert bench.step() == 0
    assert flow.fetch_missing(bench.place) == 1
    assert flow.fetch_missing(bench.place) == 0
    bench.ahead_s += 30.0  # the counts have stood still, and the short quiet is over
    assert flow.fetch_missing(bench.place) == 1
    assert bench.step() == 0
    listed = {uid: count for uid, count in bench.ledger.fetches.counts(UID, 3).items() if uid != UID}
    assert sum(listed.values()) == len(files)
    bench.receive(files[-2:])
    bench.ahead_s += 5.0
    assert bench.step() == 1
    assert "as many as the archive lists" in plain(bench.ledger.history.of_study(UID))["jobs"][0]["reason"]
    bench.ledger.close()


@pytest.mark.parametrize("away", [True, False], ids=["away", "lists nothing"])
def test_an_archive_that_says_nothing_is_not_asked_at_every_turn(
    archive: Archive, tmp_path: Path, away: bool
) -> None:
    if away:
        archive.stop()
    bench = Bench(tmp_path / "node", archive, missing_series=False, counts=True)
    bench.receive(write_series(head_study("fetch"), tmp_path / "images"))
    bench.ahead_s = 5.0
    while flow.index_instances(bench.place):
        pass
    assert [flow.fetch_missing(bench.place) for _ in range(3)] == [1, 0, 0]
    bench.ahead_s += 6.0
    assert flow.fetch_missing(bench.place) == 1
    # What the headers announce is evidence without it.
    assert bench.step() == 1
    bench.ledger.close()


@contextmanager
def listening(bench: Bench, archive: Archive) -> Iterator[None]:
    """Listen for what comes by C-MOVE, and tell the archive where."""
    receiver = Receiver(
        bench.config, SpoolWriter(bench.place.layout, 0), bench.ledger.instances.add, time.time
    )
    archive.manners.report_to["NODE"] = ("127.0.0.1", receiver.start()[1])
    try:
        yield
    finally:
        receiver.stop(2.0)


def test_counts_are_evidence_only_when_they_stood_still(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path)
    ledger.fetches.note_counts(UID, {"1.1": 10, "1.2": 30}, 100.0)
    assert ledger.fetches.counts(UID, 3) == {}
    ledger.fetches.note_counts(UID, {"1.1": 12, "1.2": 30}, 105.0)
    assert ledger.fetches.counts(UID, 3) == {"1.2": 30}
    ledger.fetches.note_counts(UID, {"1.1": 12, "1.2": 30}, 109.0)
    assert ledger.fetches.counts(UID, 3) == {"1.1": 12, "1.2": 30}
    ledger.fetches.note_asked(UID, 109.0)
    assert (ledger.fetches.counted_at(UID), ledger.fetches.counted_at("2.25.1")) == (109.0, None)
    ledger.close()


def test_what_is_wanted() -> None:
    source = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    rules = parse_config({"destinations": [source], "fetch": {"source": "pacs", "prior_studies": 1}}).fetch
    assert plan_fetches(("t1",), rules) == ("series", "priors")
    assert plan_fetches(("t1", "flair"), rules) == ("priors",)
    assert plan_fetches((), parse_config({}).fetch) == ()
