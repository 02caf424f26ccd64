from __future__ import annotations

from pathlib import Path

import pytest

from dicomnode.ledger.ledger import Ledger
from dicomnode.records import ReceivedInstance
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import RecoveryReport, rebuild_ledger, sweep_half_results
from dicomnode.spool.writer import SpoolWriter, write_result


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    return SpoolLayout(tmp_path / "spool")


def receive(layout: SpoolLayout, uid: str, data: bytes = b"bytes of a dataset") -> ReceivedInstance:
    names = {"SOPClassUID": "1.2.840.1", "SOPInstanceUID": uid, "TransferSyntaxUID": "1.2.840.10008.1.2.1", "calling_ae": "SCANNER"}
    return SpoolWriter(layout, 0).write(data, **names, peer_host="10.0.0.1", now=5.0)


def open_ledger(tmp_path: Path, name: str = "ledger") -> Ledger:
    return Ledger.open(f"sqlite:///{tmp_path / name}.sqlite3")


def test_a_lost_ledger_comes_back_from_the_spool(layout: SpoolLayout, tmp_path: Path) -> None:
    sent = [receive(layout, f"1.2.{number}", bytes([number + 1]) * 99) for number in range(5)]
    ledger = open_ledger(tmp_path)
    ledger.instances.add(sent[0])

    assert rebuild_ledger(layout, ledger.instances) == RecoveryReport(added=4, removed=0, set_aside=0, missing=0)
    assert rebuild_ledger(layout, ledger.instances) == RecoveryReport(added=0, removed=0, set_aside=0, missing=0)

    rows = {row.SOPInstanceUID: row for _, row in ledger.instances.unindexed(10)}
    ledger.close()
    assert set(rows) == {instance.SOPInstanceUID for instance in sent}
    for instance in sent[1:]:
        row = rows[instance.SOPInstanceUID]
        assert (row.path, row.sha256, row.size_bytes) == (instance.path, instance.sha256, instance.size_bytes)
        assert (row.SOPClassUID, row.TransferSyntaxUID, row.calling_ae) == ("1.2.840.1", "1.2.840.10008.1.2.1", "SCANNER")
        assert row.received_at == pytest.approx((layout.root / row.path).stat().st_mtime)


def test_half_files_go(layout: SpoolLayout, tmp_path: Path) -> None:
    whole = receive(layout, "1.2.3")
    write_result(layout, layout.result_path("1.2", 1, "seg.dcm"), b"result")
    for half in (
        f"{whole.path.rpartition('/')[0]}/.half.1.2.part",
        f"{layout.result_path('1.2', 1, 'sr.dcm').rpartition('/')[0]}/.sr.1.2.part",
    ):
        (layout.root / half).write_bytes(b"half")
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)
    ledger.close()
    # `receive` may start while `work` is writing a result: that one is swept by `work`.
    assert [path.name for path in layout.results.rglob(".*")] == [".sr.1.2.part"]
    swept = sweep_half_results(layout)

    assert (report.removed, report.added, swept) == (1, 1, 1)
    assert sorted(path.name for path in layout.root.rglob("*") if path.is_file()) == sorted([Path(whole.path).name, "seg.dcm"])


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[:100], lambda data: data[:-1] + b"!", lambda data: b"\0" * len(data), lambda _: b""],
)
def test_a_damaged_file_is_set_aside_and_not_listed(layout: SpoolLayout, tmp_path: Path, damage: object) -> None:
    file = layout.root / receive(layout, "1.2.3").path
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)
    paths = ledger.instances.paths_below("incoming")
    ledger.close()

    assert (report.set_aside, report.added, paths) == (1, 0, set())
    assert [path.name for path in layout.aside.iterdir()] == [file.name]


@pytest.mark.parametrize("element", [b"\x02\x00\x01\x00\xff\xff", b"\x02\x00\x03\x00OW\0\0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"])
def test_garbage_in_the_file_meta_does_not_stop_the_start(layout: SpoolLayout, tmp_path: Path, element: bytes) -> None:
    file = layout.root / receive(layout, "1.2.3").path
    whole = receive(layout, "1.2.4")
    data = file.read_bytes()
    file.write_bytes(data[:144] + element + data[144 + len(element) :])
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)
    paths = ledger.instances.paths_below("incoming")
    ledger.close()

    assert (report.set_aside, report.added, paths) == (1, 1, {whole.path})


def test_what_cannot_be_opened_stays_and_stops_nothing(layout: SpoolLayout, tmp_path: Path) -> None:
    whole = receive(layout, "1.2.3")
    (layout.incoming / "0" / "folder.dcm").mkdir()
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)
    ledger.close()

    assert (report.added, report.set_aside) == (1, 0)
    assert (layout.root / whole.path).exists()
    assert (layout.incoming / "0" / "folder.dcm").exists()


def test_a_row_without_file_is_told(layout: SpoolLayout, tmp_path: Path) -> None:
    instance = receive(layout, "1.2.3")
    ledger = open_ledger(tmp_path)
    ledger.instances.add(instance)
    (layout.root / instance.path).unlink()

    report = rebuild_ledger(layout, ledger.instances)
    ledger.close()

    assert report == RecoveryReport(added=0, removed=0, set_aside=0, missing=1)
