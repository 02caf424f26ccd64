"""C-GET and C-MOVE: which of them brings the images, whatever a peer answers in the negotiation."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.network.association import Receiver
from dicomnode.network.handlers import StoreRequest
from dicomnode.network.retrieve import NO_ROLE, NOT_OFFERED, Retrieved, retrieve
from dicomnode.settings.config import DestinationSettings, parse_config
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.manners import Manners
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.instances import write_instances
from tests.factories.ledger import new_ledger


@pytest.mark.parametrize(
    ("services", "selects_roles", "service", "reason"),
    [
        ({"get"}, True, "C-GET", ""),
        ({"get", "move"}, True, "C-GET", ""),
        ({"move"}, True, "C-MOVE", ""),
        ({"get", "move"}, False, "C-MOVE", ""),
        ({"get"}, False, "", NO_ROLE),
        (set(), True, "", NOT_OFFERED),
    ],
)
def test_the_way_that_works_is_taken(
    tmp_path: Path, services: set[str], selects_roles: bool, service: str, reason: str
) -> None:
    archive = Archive(
        tmp_path / "archive", manners=Manners(retrieve=frozenset(services), selects_roles=selects_roles)
    )  # type: ignore[arg-type]
    archive.folder.mkdir(parents=True)
    files = write_instances(tmp_path / "files", 3)
    for file in files:
        (archive.folder / f"{dcmread(file).SOPInstanceUID}.dcm").write_bytes(file.read_bytes())
    with archive:
        retrieved, by_get, by_move = fetch(tmp_path, archive, files)

    assert retrieved.service == service
    assert (by_get, by_move) == ({"C-GET": 3}.get(service, 0), {"C-MOVE": 3}.get(service, 0))
    if reason:
        assert (retrieved.outcome.verdict, retrieved.outcome.reason) == ("permanent", reason)
    else:
        assert (retrieved.outcome.verdict, retrieved.completed) == ("ok", 3)


def fetch(folder: Path, archive: Archive, files: list[Path]) -> tuple[Retrieved, int, int]:
    """Retrieve the series of the files; return what became of it, and how many images came by either way."""
    config = parse_config(
        {"network": {"ae_title": "NODE", "port": 0}, "storage": {"root": str(folder), "minimum_free_mb": 1}}
    )
    ledger = new_ledger(folder)
    stored: list[StoreRequest] = []
    receiver = Receiver(
        config, SpoolWriter(SpoolLayout(folder / "spool"), 0), ledger.instances.add, time.time
    )
    archive.manners.report_to["NODE"] = ("127.0.0.1", receiver.start()[1])
    header = dcmread(files[0])
    peer = DestinationSettings(name="pacs", ae_title=archive.ae_title, host="127.0.0.1", port=archive.port)

    def store(request: StoreRequest) -> int:
        stored.append(request)
        return 0x0000

    try:
        retrieved = retrieve(
            peer,
            header.StudyInstanceUID,
            [header.SeriesInstanceUID],
            calling_ae="NODE",
            timeout_s=10,
            store=store,
        )
        by_move = len(list((folder / "spool" / "incoming").glob("*/*.dcm")))
    finally:
        receiver.stop(5.0)
        ledger.close()
    return retrieved, len(stored), by_move
