"""Orthanc as the PACS: it keeps and proves results, asks us for proof, is queried and pulled from. Its routing: test_orthanc_guide.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage, generate_uid

from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.fetch import pull
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.network.association import Receiver
from dicomnode.network.commitment_scp import CommitmentProvider
from dicomnode.network.handlers import store_handler
from dicomnode.network.query import InstanceKey, find_instances, find_series
from dicomnode.network.retrieve import _by_move, _keys
from dicomnode.network.sender import send_files
from dicomnode.network.stow import find_by_qido, stow_files
from dicomnode.records import Conclusion
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from dicomnode.states import Outcome
from tests.factories.instances import write_instances
from tests.factories.ledger import STUDY, LedgerStory, new_ledger
from tests.factories.orthanc import Orthanc, running_orthanc
from tests.factories.outbox import freeze_results

pytestmark = [pytest.mark.slow, pytest.mark.tools]


@pytest.fixture
def orthanc(tmp_path: Path, require_tool: Callable[[str], str]) -> Iterator[Orthanc]:
    with running_orthanc(require_tool("Orthanc"), tmp_path / "orthanc") as running:
        yield running


class Receiving:
    """The receiving side of a node in this process, with everything that `dicomnode receive` serves."""

    def __init__(self, folder: Path, orthanc: Orthanc) -> None:
        self.config = parse_config(
            {
                "network": {"port": 0, "ae_title": "NODE"},
                "peers": [{"ae_title": "ORTHANC", "port": orthanc.dicom_port}],
                "destinations": [
                    {"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
                ],
                "delivery": {"confirm_first_s": 0, "timeout_s": 20},
            }
        )
        folder.mkdir()
        self.ledger = new_ledger(folder)
        self.layout = SpoolLayout(folder / "spool")
        self.writer = SpoolWriter(self.layout, 0)
        self.provider = CommitmentProvider(
            self.config, self.ledger.commitments, self.writer.holds_whole, time.time
        )
        services = self.provider.services(
            lambda report: self.ledger.confirmations.report(report, time.time())
        )
        self.receiver = Receiver(self.config, self.writer, self.ledger.instances.add, time.time, services)
        _, self.port = self.receiver.start()
        self.provider.start()
        orthanc.introduce("NODE", self.port)

    def stored(self) -> set[str]:
        return {instance.SOPInstanceUID for _, instance in self.ledger.instances.unindexed(1000)}

    def stop(self) -> None:
        self.provider.stop()
        self.receiver.stop(2.0)
        self.ledger.close()


@pytest.fixture
def receiving(tmp_path: Path, orthanc: Orthanc) -> Iterator[Receiving]:
    side = Receiving(tmp_path / "node", orthanc)
    yield side
    side.stop()


def wait_for(what: Callable[[], Any], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.5)


def test_we_commit_ourselves_to_what_orthanc_sent_and_to_nothing_else(
    orthanc: Orthanc, receiving: Receiving, tmp_path: Path
) -> None:
    images = [dcmread(path) for path in write_instances(tmp_path / "images", 3)]
    send_files(
        sorted((tmp_path / "images").glob("*.dcm")), orthanc.destination, calling_ae="SCANNER", timeout_s=20
    )
    wait_for(lambda: len(orthanc.instances("MR")) == 3, 20)
    orthanc.rest(
        "POST",
        "/modalities/node/store",
        {"Resources": orthanc.rest("GET", "/instances"), "Synchronous": True},
    )
    assert receiving.stored() == {str(image.SOPInstanceUID) for image in images}

    pairs = [(str(MRImageStorage), str(image.SOPInstanceUID)) for image in images]
    assert orthanc.commitment(pairs)["Status"] == "Success"
    assert len(orthanc.commitment(pairs)["Success"]) == 3

    _, lost = receiving.ledger.instances.unindexed(1)[0]
    (receiving.layout.root / lost.path).write_bytes(b"cut short")
    report = orthanc.commitment(
        [*pairs, (str(MRImageStorage), "2.25.1"), ("1.2.840.10008.5.1.4.1.1.2", pairs[1][1])]
    )
    assert report["Status"] == "Failure"
    reasons = {entry["SOPInstanceUID"]: entry["FailureReason"] for entry in report["Failures"]}
    assert reasons == {lost.SOPInstanceUID: 0x0110, "2.25.1": 0x0112, pairs[1][1]: 0x0119}


def test_results_are_stored_and_orthanc_commits_itself_to_them(
    orthanc: Orthanc, receiving: Receiving
) -> None:
    job = LedgerStory(receiving.ledger).running()
    results = freeze_results(receiving.layout, STUDY, 1)
    receiving.ledger.jobs.finish(
        job.id, "work:1", Conclusion(Outcome.LESIONS, "2 lesions", results, {"pacs": ("seg", "sr")}, {}), 40
    )
    deliver_due(receiving.ledger, receiving.layout, receiving.config, time.time)
    confirm_due(receiving.ledger, receiving.config, time.time, generate_uid)
    wait_for(lambda: receiving.ledger.confirmations.due_destinations(time.time()), 60)
    confirm_due(receiving.ledger, receiving.config, time.time, generate_uid)

    deliveries = plain(receiving.ledger.history.of_study(STUDY))["deliveries"]
    assert [(one["state"], one["last_status"]) for one in deliveries] == [
        ("confirmed", "the peer committed itself to keep it (storage commitment)")
    ] * 2


def test_orthanc_is_asked_by_query_what_it_keeps(orthanc: Orthanc, tmp_path: Path) -> None:
    # It answers questions of known callers only.
    orthanc.introduce("NODE", 1)
    files = write_instances(tmp_path / "images", 3)
    send_files(files[:2], orthanc.destination, calling_ae="SCANNER", timeout_s=20)
    images = [dcmread(path) for path in files]
    keys = [
        InstanceKey(image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID) for image in images
    ]
    there = {str(image.SOPInstanceUID) for image in images[:2]}

    assert find_instances(orthanc.destination, keys, calling_ae="NODE", timeout_s=20) == there
    series = find_series(
        orthanc.destination, str(images[0].StudyInstanceUID), calling_ae="NODE", timeout_s=20
    )
    assert isinstance(series, tuple)
    assert [(one.SeriesInstanceUID, one.Modality, one.NumberOfSeriesRelatedInstances) for one in series] == [
        (str(images[0].SeriesInstanceUID), "MR", 2)
    ]


def test_a_study_is_pulled_by_c_get_and_by_c_move(
    orthanc: Orthanc, receiving: Receiving, tmp_path: Path
) -> None:
    files = write_instances(tmp_path / "images", 4)
    send_files(files, orthanc.destination, calling_ae="SCANNER", timeout_s=20)
    images = [dcmread(path) for path in files]
    study, series = str(images[0].StudyInstanceUID), str(images[0].SeriesInstanceUID)
    by_move = _by_move(orthanc.destination, _keys(study, [series]), "NODE", 20)
    assert (by_move.outcome.verdict, by_move.completed, by_move.service) == ("ok", 4, "C-MOVE")
    assert receiving.stored() == {str(image.SOPInstanceUID) for image in images}

    other = SpoolWriter(SpoolLayout(tmp_path / "other"), 0)
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    store = store_handler(other, ledger.instances.add, time.time)
    pulled = pull(receiving.config, store, orthanc.destination, study)
    got = {instance.SOPInstanceUID: instance for _, instance in ledger.instances.unindexed(10)}
    ledger.close()
    assert (
        pulled.retrieved.outcome.verdict,
        pulled.retrieved.completed,
        pulled.expected,
        pulled.retrieved.service,
    ) == (
        "ok",
        4,
        4,
        "C-GET",
    )
    for image in images:
        kept = dcmread(other.layout.root / got[str(image.SOPInstanceUID)].path)
        assert kept.PixelData == image.PixelData
        assert (got[str(image.SOPInstanceUID)].calling_ae, got[str(image.SOPInstanceUID)].peer_host) == (
            "ORTHANC",
            "127.0.0.1",
        )


def test_results_are_stored_by_stow_and_found_by_qido(orthanc: Orthanc, tmp_path: Path) -> None:
    layout = SpoolLayout(tmp_path / "spool")
    results = freeze_results(layout, "2.25.77", 1)
    keys = [InstanceKey("2.25.77", result.SeriesInstanceUID, result.SOPInstanceUID) for result in results]
    assert find_by_qido(orthanc.web, keys, timeout_s=20) == frozenset()

    outcomes = stow_files([layout.root / result.path for result in results], orthanc.web, timeout_s=20)

    assert [(one.verdict, one.status) for one in outcomes] == [("ok", 0), ("ok", 0)]
    assert find_by_qido(orthanc.web, keys, timeout_s=20) == {result.SOPInstanceUID for result in results}
    kept = orthanc.rest(
        "POST", "/tools/find", {"Level": "Instance", "Query": {"StudyInstanceUID": "2.25.77"}}
    )
    assert len(kept) == 2
