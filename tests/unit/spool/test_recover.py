from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicomnode.errors import NotUnderstood, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.part10 import encode_file_meta
from dicomnode.spool.recover import RecoveryReport, rebuild_ledger, sweep_half_results
from dicomnode.spool.writer import SpoolWriter, write_result
from tests.factories.ledger import new_ledger


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    return SpoolLayout(tmp_path / "spool")


UIDS = (
    st.lists(st.from_regex(r"[0-9]{1,9}", fullmatch=True), min_size=1, max_size=6)
    .map(".".join)
    .filter(lambda uid: len(uid) <= 64)
)
# What may stand in an A-ASSOCIATE-RQ: more than AE allows, letters of other scripts, nothing.
TITLES = st.text(st.characters(exclude_categories=["Cs"]), max_size=16)
HOSTS = st.sampled_from(["10.0.0.1", "2001:db8::7", ""])


def receive(layout: SpoolLayout, uid: str, data: bytes = b"bytes of a dataset") -> ReceivedInstance:
    names = {
        "SOPClassUID": "1.2.840.1",
        "SOPInstanceUID": uid,
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        "calling_ae": "SCANNER",
    }
    return SpoolWriter(layout, 0).write(data, **names, peer_host="10.0.0.1", now=5.0)


def open_ledger(tmp_path: Path, name: str = "ledger") -> Ledger:
    return new_ledger(tmp_path, name)


def test_a_lost_ledger_comes_back_from_the_spool(layout: SpoolLayout, tmp_path: Path) -> None:
    sent = [receive(layout, f"1.2.{number}", bytes([number + 1]) * 99) for number in range(5)]
    ledger = open_ledger(tmp_path)
    ledger.instances.add(sent[0])

    assert rebuild_ledger(layout, ledger.instances) == RecoveryReport(
        added=4, removed=0, set_aside=0, missing=0
    )
    assert rebuild_ledger(layout, ledger.instances) == RecoveryReport(
        added=0, removed=0, set_aside=0, missing=0
    )

    rows = {row.SOPInstanceUID: row for _, row in ledger.instances.unindexed(10)}
    ledger.close()
    assert set(rows) == {instance.SOPInstanceUID for instance in sent}
    for instance in sent[1:]:
        row = rows[instance.SOPInstanceUID]
        assert (row.path, row.sha256, row.size_bytes) == (instance.path, instance.sha256, instance.size_bytes)
        assert (row.SOPClassUID, row.TransferSyntaxUID, row.calling_ae) == (
            "1.2.840.1",
            "1.2.840.10008.1.2.1",
            "SCANNER",
        )
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
    assert sorted(path.name for path in layout.root.rglob("*") if path.is_file()) == sorted(
        [Path(whole.path).name, "seg.dcm"]
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:100],
        lambda data: data[:-1] + b"!",
        lambda data: b"\0" * len(data),
        lambda _: b"",
    ],
)
def test_a_damaged_file_is_set_aside_and_not_listed(
    layout: SpoolLayout, tmp_path: Path, damage: object
) -> None:
    file = layout.root / receive(layout, "1.2.3").path
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)
    paths = set(ledger.instances.paths_below("incoming"))
    ledger.close()

    assert (report.set_aside, report.added, paths) == (1, 0, set())
    assert [path.name for path in layout.aside.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "element",
    [b"\x02\x00\x01\x00\xff\xff", b"\x02\x00\x03\x00OW\0\0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"],
)
def test_garbage_in_the_file_meta_does_not_stop_the_start(
    layout: SpoolLayout, tmp_path: Path, element: bytes
) -> None:
    file = layout.root / receive(layout, "1.2.3").path
    whole = receive(layout, "1.2.4")
    data = file.read_bytes()
    file.write_bytes(data[:144] + element + data[144 + len(element) :])
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)
    paths = set(ledger.instances.paths_below("incoming"))
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


def rows_of(ledger: Ledger) -> dict[str, dict[str, Any]]:
    return {
        row.path: vars(row) | {"received_at": round(row.received_at, 5)}
        for _, row in ledger.instances.unindexed(1000)
    }


# SQLAlchemy keeps listeners by the address of their engine; of the many engines here one may get the address of one that is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(UIDS, UIDS, UIDS, TITLES, HOSTS, st.binary(min_size=1, max_size=9)), min_size=1, max_size=8
    )
)
def test_a_ledger_made_from_the_spool_equals_the_lost_one(
    sent: list[tuple[str, str, str, str, str, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = SpoolLayout(Path(folder) / "spool")
        writer, old, new = (
            SpoolWriter(layout, 0),
            open_ledger(Path(folder), "old"),
            open_ledger(Path(folder), "new"),
        )
        outcomes = []
        for number, (uid, sop_class, syntax, title, host, data) in enumerate(sent):
            instance = writer.write(
                data,
                SOPClassUID=sop_class,
                SOPInstanceUID=uid,
                TransferSyntaxUID=syntax,
                calling_ae=title,
                peer_host=host,
                now=1_000_000_000.25 + number,
            )
            assert (instance.SOPInstanceUID, instance.SOPClassUID, instance.TransferSyntaxUID) == (
                uid,
                sop_class,
                syntax,
            )
            outcomes.append(old.instances.add(instance))

        report = rebuild_ledger(layout, new.instances)

        assert (report.set_aside, report.added) == (0, len(outcomes) - outcomes.count("duplicate"))
        assert rows_of(new) == rows_of(old)
        assert new.history.health().conflicts == old.history.health().conflicts
        old.close()
        new.close()


@pytest.mark.parametrize(
    "uid", ["", "1.2\\3.4", "1.2\n", "1.2\0", "1.2.\u0663", "name", "1" * 65, "1..2", "1.2."]
)
@pytest.mark.parametrize("element", ["SOPInstanceUID", "SOPClassUID", "TransferSyntaxUID"])
def test_what_is_no_uid_is_refused_before_a_byte_is_written(
    layout: SpoolLayout, element: str, uid: str
) -> None:
    uids = {
        "SOPClassUID": "1.2.840.1",
        "SOPInstanceUID": "1.2",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        element: uid,
    }
    writer = SpoolWriter(layout, 0)
    with pytest.raises(NotUnderstood, match="no UID") as caught:
        writer.write(b"data", **uids, calling_ae="SCANNER", peer_host="10.0.0.1", now=5.0)
    assert caught.value.status == 0xC000
    assert uid == "" or uid not in str(caught.value)
    assert [path for path in layout.root.rglob("*") if path.is_file()] == []


def write_as_0_4_0(layout: SpoolLayout, uid: str, data: bytes) -> Path:
    """Write a file as release 0.4.0 did: the name is the hash of the UID as it came, the file holds what ASCII could take of it."""
    layout.prepare()
    name = hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()
    path = layout.incoming / name[0] / f"{name[:32]}-{hashlib.sha256(data).hexdigest()[:32]}.dcm"
    head = encode_file_meta(
        SOPClassUID="1.2.840.1", SOPInstanceUID=uid, TransferSyntaxUID="1.2.840.10008.1.2.1", calling_ae="OLD"
    )
    path.write_bytes(head + data)
    return path


@pytest.mark.parametrize(
    "uid", ["1.2\\3.4", "1.2.\u0663", "1.2\0", "1.2.3\0", "1.2\n", "1.2\0003", "Doe^Jane", "1.2 "]
)
def test_what_0_4_0_acknowledged_comes_back_whatever_its_uid(
    layout: SpoolLayout, tmp_path: Path, uid: str
) -> None:
    path = write_as_0_4_0(layout, uid, b"bytes of a dataset")
    ledger = open_ledger(tmp_path)

    report = rebuild_ledger(layout, ledger.instances)

    assert (report.added, report.set_aside) == (1, 0)
    ((_, row),) = ledger.instances.unindexed(10)
    ledger.close()
    assert layout.root / row.path == path
    assert row.SOPInstanceUID.isprintable()


class _Picky:
    """A ledger that takes some instances only, as a database of another encoding does."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        self.added: list[str] = []

    def paths_below(self, _folder: str) -> set[str]:
        return set()

    def count_below(self, folder: str) -> int:
        # What is read ahead is nobody's to wait for.
        raise RetryLater(f"{folder} cannot be counted")

    def add(self, instance: ReceivedInstance) -> AddOutcome:
        if instance.SOPInstanceUID == self.refused:
            raise ValueError("invalid byte sequence")
        self.added.append(instance.SOPInstanceUID)
        return "new"


def test_a_row_that_the_database_refuses_does_not_stop_the_others(layout: SpoolLayout) -> None:
    for number in range(5):
        receive(layout, f"1.2.{number}", bytes([number + 1]) * 9)
    ledger = _Picky("1.2.2")

    report = rebuild_ledger(layout, ledger)

    assert (report.added, report.set_aside) == (4, 1)
    assert "1.2.2" not in ledger.added
    assert len(list(layout.aside.iterdir())) == 1


def test_files_are_listed_in_the_order_in_which_they_came(layout: SpoolLayout, tmp_path: Path) -> None:
    names = {
        "SOPClassUID": "1.2.840.1",
        "SOPInstanceUID": "1.2.3",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        "calling_ae": "SCANNER",
    }
    writer = SpoolWriter(layout, 0)
    sent = [
        writer.write(bytes([number]) * 9, **names, peer_host="", now=100.0 - number) for number in range(6)
    ]
    ledger = open_ledger(tmp_path)

    rebuild_ledger(layout, ledger.instances)

    assert [row.path for _, row in ledger.instances.unindexed(10)] == [
        instance.path for instance in reversed(sent)
    ]
    ledger.close()


def test_what_cannot_be_read_stays_and_is_told_of_each_time(layout: SpoolLayout, tmp_path: Path) -> None:
    path = layout.root / receive(layout, "1.2.3").path
    path.unlink()
    path.mkdir()
    ledger = open_ledger(tmp_path)

    reports = [rebuild_ledger(layout, ledger.instances) for _ in range(2)]

    assert reports == [RecoveryReport(added=0, removed=0, set_aside=0, missing=0, not_readable=1)] * 2
    assert path.is_dir()
