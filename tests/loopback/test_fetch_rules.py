"""The rules of [fetch]: a study with half its series is completed from the PACS, priors come with it, counts are evidence once they stand still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import dcmread

from dicomnode import flow
from dicomnode.compute import Compute
from dicomnode.config import DestinationSettings, parse_config
from dicomnode.fetch import plan_fetches, store_into
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.handlers import StoreRequest
from dicomnode.network.sender import send_files
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import write_series
from dicomnode.simulator.manners import Manners
from dicomnode.spool.layout import SpoolLayout
from tests.factories.head import head_series, study_uid
from tests.factories.ledger import sqlite_url

UID = study_uid("fetch")


class Bench:
    """The working side up to "ready", with an archive to ask; the clock runs ahead, so that every study is quiet."""

    def __init__(self, folder: Path, archive: Archive, **rules: Any) -> None:
        pacs = {"name": "pacs", "ae_title": archive.ae_title, "host": "127.0.0.1", "port": archive.port}
        self.config = parse_config(
            {
                "network": {"ae_title": "NODE"},
                "storage": {"root": str(folder), "minimum_free_mb": 1},
                "destinations": [pacs],
                "delivery": {"timeout_s": 10},
                "fetch": {"source": "pacs", **rules},
            }
        )
        folder.mkdir()
        self.ledger = Ledger.open(sqlite_url(folder))
        self.ahead_s = 600.0
        layout = SpoolLayout(self.config.storage.spool)
        self.place = flow.Workplace(
            self.config, self.ledger, layout, cast("Compute", None), "work@here", lambda: time.time() + self.ahead_s
        )
        self.store = store_into(self.config, self.ledger, time.time)

    def receive(self, files: list[Path]) -> None:
        for path in files:
            instance = dcmread(path)
            whole = path.read_bytes()
            dataset = whole[144 + instance.file_meta.FileMetaInformationGroupLength :]
            meta = instance.file_meta
            request = StoreRequest(
                meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID, dataset, "SCANNER", "127.0.0.1"
            )
            assert self.store(request) == 0x0000

    def step(self) -> int:
        while flow.index_instances(self.place):
            pass
        return flow.assess_studies(self.place)

    def events(self, study: str = UID) -> list[tuple[str, str]]:
        found = self.ledger.study_history(study)["events"]
        return [(event["what"], event["detail"].get("result", "")) for event in found if event["what"].startswith("fetch")]

    def series(self) -> int:
        return len(self.ledger.study_history(UID)["series"])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "pacs", manners=Manners(find="image", retrieve=frozenset({"get"}))) as running:
        yield running


def files_of(archive: Archive, folder: Path, role: str, study: str = "fetch", keep: bool = True) -> list[Path]:
    """Write a series; with `keep` the archive gets it too."""
    files = write_series(head_series(role, study), folder / study / role)  # type: ignore[arg-type]
    if keep:
        peer = DestinationSettings(name="pacs", ae_title=archive.ae_title, host="127.0.0.1", port=archive.port)
        assert {one.verdict for one in send_files(files, peer, calling_ae="SCANNER", timeout_s=20)} == {"ok"}
    return files


def test_a_study_without_its_t1_gets_it_from_the_pacs_before_it_is_worked_on(archive: Archive, tmp_path: Path) -> None:
    flair, t1 = (files_of(archive, tmp_path / "images", role) for role in ("flair", "t1"))
    bench = Bench(tmp_path / "node", archive)
    bench.receive(flair)
    assert bench.step() == 0
    assert bench.series() == 1
    assert flow.fetch_missing(bench.place) == 1
    bench.ahead_s += 10.0  # what was fetched has settled
    assert bench.step() == 1
    history = bench.ledger.study_history(UID)
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
    assert bench.events() == [("fetched", f"not fetched: of the 1 series of study {UID} at ARCHIVE none is wanted")]
    bench.ledger.close()


def test_a_pacs_that_is_away_is_asked_three_times_then_the_study_is_taken_as_it_is(archive: Archive, tmp_path: Path) -> None:
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


def test_counts_are_evidence_only_when_they_stood_still(tmp_path: Path) -> None:
    ledger = Ledger.open(sqlite_url(tmp_path))
    ledger.fetches.note_counts(UID, {"1.1": 10, "1.2": 30}, 100.0)
    assert ledger.fetches.counts(UID, 3) == {}
    ledger.fetches.note_counts(UID, {"1.1": 12, "1.2": 30}, 105.0)
    assert ledger.fetches.counts(UID, 3) == {"1.2": 30}
    ledger.fetches.note_counts(UID, {"1.1": 12, "1.2": 30}, 109.0)
    assert ledger.fetches.counts(UID, 3) == {"1.1": 12, "1.2": 30}
    assert (ledger.fetches.counted_at(UID), ledger.fetches.counted_at("2.25.1")) == (109.0, None)
    ledger.close()


def test_what_is_wanted() -> None:
    rules = parse_config({"fetch": {"source": "pacs", "prior_studies": 1}}).fetch
    assert plan_fetches(("t1",), rules) == ("series", "priors")
    assert plan_fetches(("t1", "flair"), rules) == ("priors",)
    assert plan_fetches((), parse_config({}).fetch) == ()
