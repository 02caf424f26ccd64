"""Sending to archives that take everything, little, or nothing."""

from __future__ import annotations

import errno
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association

from dicomnode.network.sender import echo, send_files
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.manners import Manners
from tests.factories.instances import small_instance, write_instances


def destination(port: int, ae_title: str = "ARCHIVE", **settings: Any) -> DestinationSettings:
    return DestinationSettings(name="pacs", ae_title=ae_title, host="127.0.0.1", port=port, **settings)


def send(files: list[Path], port: int, **settings: Any) -> list[SendOutcome]:
    return send_files(files, destination(port, **settings), calling_ae="NODE", timeout_s=5)


def verdicts(outcomes: list[SendOutcome]) -> list[str]:
    return [outcome.verdict for outcome in outcomes]


def dataset_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return data[144 + int.from_bytes(data[140:144], "little") :]


def test_what_arrives_is_what_was_sent_byte_for_byte(tmp_path: Path) -> None:
    files, done = write_instances(tmp_path / "out", 3), []
    with Archive(tmp_path / "pacs") as archive:
        outcomes = send_files(
            files, destination(archive.port), calling_ae="NODE", timeout_s=5, progress=done.append
        )

    assert outcomes == [SendOutcome("ok", "0x0000: success", 0)] * 3
    assert done == [1, 2, 3]
    kept = {dcmread(file).InstanceNumber: file for file in archive.files}
    assert [dataset_bytes(kept[number]) for number in (1, 2, 3)] == [dataset_bytes(file) for file in files]


def test_a_batch_is_one_association(tmp_path: Path) -> None:
    files = write_instances(tmp_path / "out", 3)
    small_instance(9, SOPClassUID=SegmentationStorage).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    connections: list[str] = []
    with Archive(tmp_path / "pacs") as archive:
        assert archive._server is not None
        archive._server.bind(
            evt.EVT_ACCEPTED, lambda event: connections.append(event.assoc.requestor.ae_title)
        )
        outcomes = send([*files, tmp_path / "seg.dcm"], archive.port)

    assert verdicts(outcomes) == ["ok"] * 4
    assert connections == ["NODE"]


def test_an_archive_that_stops_reading_does_not_hold_the_sender_for_ever(tmp_path: Path) -> None:
    # More than the buffers of both ends take.
    small_instance(1, side=3000).save_as(tmp_path / "large.dcm", enforce_file_format=True)
    reads_again = threading.Event()
    outcomes: list[SendOutcome] = []

    def hold(event: Any) -> None:
        if event.assoc.is_established:
            reads_again.wait(30)

    def attempt() -> None:
        outcomes.extend(
            send_files([tmp_path / "large.dcm"], destination(archive.port), calling_ae="NODE", timeout_s=0.5)
        )

    with Archive(tmp_path / "pacs") as archive:
        assert archive._server is not None
        archive._server.bind(evt.EVT_DATA_RECV, hold)
        sender = threading.Thread(target=attempt, daemon=True)
        sender.start()
        sender.join(15)
        reads_again.set()

    assert verdicts(outcomes) == ["transient"]


class NoPause:
    """In place of the event that pauses the library's own thread: as if every send had overtaken the pause."""

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self) -> None: ...


def test_an_answer_is_not_taken_for_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Association,
        "_reactor_checkpoint",
        property(lambda _self: NoPause(), lambda _self, _value: None),
        raising=False,
    )
    monkeypatch.setattr(
        Association, "_is_paused", property(lambda _self: True, lambda _self, _value: None), raising=False
    )
    files = write_instances(tmp_path / "out", 30)
    of_others = set(threading.enumerate())
    with Archive(tmp_path / "pacs", slow_s=0.01) as archive:
        outcomes = send_files(files, destination(archive.port), calling_ae="NODE", timeout_s=2)
    # The library's threads outlive both by a moment, and would miss what is taken away now.
    for thread in set(threading.enumerate()) - of_others:
        if isinstance(thread, Association):
            thread.join(10)

    assert verdicts(outcomes) == ["ok"] * 30


@pytest.mark.slow
def test_a_slow_line_may_take_longer_than_the_timeout_for_one_object(tmp_path: Path) -> None:
    small_instance(1, side=3000).save_as(tmp_path / "large.dcm", enforce_file_format=True)
    with Archive(tmp_path / "pacs") as archive:
        assert archive._server is not None
        # Else megabytes wait in its buffer: they are sent, and the time for the answer runs while it reads them.
        archive._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        archive._server.bind(
            evt.EVT_PDU_RECV, lambda event: time.sleep(0.005) if event.assoc.is_established else None
        )
        began = time.monotonic()
        outcomes = send_files(
            [tmp_path / "large.dcm"], destination(archive.port), calling_ae="NODE", timeout_s=4
        )

    assert verdicts(outcomes) == ["ok"]
    assert time.monotonic() - began > 4


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "transient"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "permanent"),
        (NotImplementedError("Doe^Jane"), "permanent"),
        (ValueError("Doe^Jane"), "permanent"),
    ],
)
def test_what_goes_wrong_with_a_file_is_judged_and_quotes_no_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, verdict: str
) -> None:
    def fail(*_: Any) -> None:
        raise fault

    [file] = write_instances(tmp_path / "out", 1)
    monkeypatch.setattr(Association, "send_c_store", fail)
    with Archive(tmp_path / "pacs") as archive:
        [outcome] = send([file], archive.port)

    assert outcome.verdict == verdict
    assert "Doe" not in outcome.reason


def test_our_name_may_differ_per_destination(tmp_path: Path) -> None:
    files = write_instances(tmp_path / "out", 1)
    with Archive(tmp_path / "pacs", known_callers=["SPECIAL"]) as archive:
        [unknown] = send(files, archive.port)
        [known] = send(files, archive.port, calling_ae_title="SPECIAL")

    assert (unknown.verdict, known.verdict) == ("permanent", "ok")
    assert "Calling AE title not recognised" in unknown.reason


def test_an_archive_that_knows_implicit_vr_only_gets_the_same_content(tmp_path: Path) -> None:
    [file] = write_instances(tmp_path / "out", 1)
    with Archive(tmp_path / "pacs", implicit_only=True) as archive:
        assert verdicts(send([file], archive.port)) == ["ok"]

    kept = dcmread(archive.files[0])
    assert kept.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert kept == dcmread(file)


@pytest.mark.parametrize("syntax", [RLELossless, ExplicitVRBigEndian])
def test_pixels_that_cannot_be_converted_are_refused_by_name(tmp_path: Path, syntax: str) -> None:
    instance = small_instance(1)
    if syntax == RLELossless:
        instance.compress(RLELossless, generate_instance_uid=False)
    instance.file_meta.TransferSyntaxUID = syntax
    instance.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
    plain = write_instances(tmp_path / "out", 1, first=2)
    with Archive(tmp_path / "pacs", implicit_only=True) as archive:
        odd, native = send([tmp_path / "odd.dcm", *plain], archive.port)

    assert (odd.verdict, native.verdict) == ("permanent", "ok")
    assert "MR Image Storage with" in odd.reason


def test_compressed_pixels_arrive_compressed(tmp_path: Path) -> None:
    instance = small_instance(1)
    instance.compress(RLELossless, generate_instance_uid=False)
    instance.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    with Archive(tmp_path / "pacs") as archive:
        assert verdicts(send([tmp_path / "rle.dcm"], archive.port)) == ["ok"]

    assert dataset_bytes(archive.files[0]) == dataset_bytes(tmp_path / "rle.dcm")


def test_a_class_that_is_refused_does_not_hold_up_the_others(tmp_path: Path) -> None:
    small_instance(1, SOPClassUID=SegmentationStorage).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    files = [tmp_path / "seg.dcm", *write_instances(tmp_path / "out", 1, first=2)]
    with Archive(tmp_path / "pacs", refuse=[SegmentationStorage]) as archive:
        segmentation, image = send(files, archive.port)
        [alone] = send(files[:1], archive.port)

    assert (segmentation.verdict, image.verdict, alone.verdict) == ("permanent", "ok", "permanent")
    assert "Segmentation Storage" in segmentation.reason
    assert len(archive.files) == 1


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0xA700, "transient"),
        (0xA701, "transient"),
        (0x0110, "transient"),
        (0xA900, "permanent"),
        (0xC123, "permanent"),
        (0x0122, "permanent"),
        (0x0124, "permanent"),
        (0xB000, "ok"),
        (0xB007, "ok"),
    ],
)
def test_the_answer_decides(tmp_path: Path, status: int, verdict: str) -> None:
    with Archive(tmp_path / "pacs", answer=status) as archive:
        [outcome] = send(write_instances(tmp_path / "out", 1), archive.port)

    assert (outcome.verdict, outcome.status) == (verdict, status)
    assert outcome.reason.startswith(f"0x{status:04X}: ")


def test_nobody_there_is_tried_again(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "pacs")
    archive.start()
    archive.stop()
    files = write_instances(tmp_path / "out", 2)

    assert verdicts(send(files, archive.port)) == ["transient", "transient"]

    with archive:
        assert verdicts(send(files, archive.port)) == ["ok", "ok"]


def test_a_host_without_a_name_is_tried_again(tmp_path: Path) -> None:
    nowhere = DestinationSettings(name="pacs", ae_title="ARCHIVE", host="nowhere.invalid", port=104)

    [outcome] = send_files(write_instances(tmp_path / "out", 1), nowhere, calling_ae="NODE", timeout_s=2)

    assert outcome.verdict == "transient"


def test_the_wrong_title_is_permanent(tmp_path: Path) -> None:
    with Archive(tmp_path / "pacs", ae_title="OTHER") as archive:
        [outcome] = send(write_instances(tmp_path / "out", 1), archive.port)

    assert outcome.verdict == "permanent"
    assert "Called AE title not recognised" in outcome.reason


def test_an_archive_without_room_for_the_moment_is_tried_again(tmp_path: Path) -> None:
    with Archive(tmp_path / "pacs") as archive:
        assert archive._server is not None
        archive._server.ae.maximum_associations = 1
        first = AE().associate("127.0.0.1", archive.port, ae_title="ARCHIVE", contexts=_mr_contexts())
        [outcome] = send(write_instances(tmp_path / "out", 1), archive.port)
        first.release()

    assert outcome.verdict == "transient"


# An answer that the archive gives while it is being broken off is one that pynetdicom raises in its own thread.
@pytest.mark.filterwarnings(
    "ignore:(?s).*Invalid event 'Evt9' for the current state 'Sta13':pytest.PytestUnhandledThreadExceptionWarning"
)
def test_an_archive_that_does_not_answer_in_time_is_tried_again(tmp_path: Path) -> None:
    with Archive(tmp_path / "pacs", slow_s=1.0) as archive:
        began = time.monotonic()
        outcomes = send_files(
            write_instances(tmp_path / "out", 2), destination(archive.port), calling_ae="NODE", timeout_s=0.3
        )
        took_s = time.monotonic() - began

    assert verdicts(outcomes) == ["transient", "transient"]
    assert took_s < 3


def test_an_association_that_is_aborted_leaves_the_rest_for_later(tmp_path: Path) -> None:
    with Archive(tmp_path / "pacs", manners=Manners(breaks_off_at=2)) as archive:
        files = write_instances(tmp_path / "out", 3)
        began = time.monotonic()
        outcomes = send_files(files, destination(archive.port), calling_ae="NODE", timeout_s=60)

    assert verdicts(outcomes) == ["ok", "transient", "transient"]
    assert outcomes[1].reason == "the peer broke the association off"
    # Who has hung up is not waited for.
    assert time.monotonic() - began < 50


def test_what_is_no_dicom_file_is_told_and_the_rest_is_sent(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("not DICOM at all")
    files = [tmp_path / "text.dcm", *write_instances(tmp_path / "out", 1), tmp_path / "absent.dcm"]
    with Archive(tmp_path / "pacs") as archive:
        outcomes = send(files, archive.port)

    assert verdicts(outcomes) == ["permanent", "ok", "permanent"]
    assert "not a DICOM file" in outcomes[0].reason


def test_more_kinds_than_one_association_can_name(tmp_path: Path) -> None:
    files = []
    for number in range(130):
        files.append(tmp_path / f"{number}.dcm")
        small_instance(number, SOPClassUID=f"1.2.826.0.1.3680043.8.498.{number + 1}").save_as(
            files[-1], enforce_file_format=True
        )
    small_instance(500).save_as(tmp_path / "mr.dcm", enforce_file_format=True)
    with Archive(tmp_path / "pacs") as archive:
        outcomes = send([*files, tmp_path / "mr.dcm"], archive.port)

    assert verdicts(outcomes) == ["permanent"] * 130 + ["ok"]


def test_echo(tmp_path: Path) -> None:
    with Archive(tmp_path / "pacs") as archive:
        there = echo(destination(archive.port), "NODE", 5)
        wrong_title = echo(destination(archive.port, "OTHER"), "NODE", 5)
    gone = echo(destination(archive.port), "NODE", 5)

    assert (there.verdict, there.status) == ("ok", 0)
    assert (wrong_title.verdict, gone.verdict) == ("permanent", "transient")


@pytest.mark.tools
def test_dcmtk_takes_it(tmp_path: Path, require_tool: Callable[[str], str], free_port: int) -> None:
    folder = tmp_path / "pacs"
    folder.mkdir()
    files = write_instances(tmp_path / "out", 2)
    listener = subprocess.Popen([require_tool("storescp"), "-od", folder, str(free_port)])
    try:
        # storescp opens its port some time after it has started.
        outcomes = next(
            found
            for _ in range(50)
            if (found := send(files, free_port, ae_title="ANY"))[0].verdict == "ok" or time.sleep(0.1)
        )
    finally:
        listener.terminate()
        listener.wait(10)

    assert verdicts(outcomes) == ["ok", "ok"]
    assert sorted(dcmread(path).InstanceNumber for path in folder.iterdir()) == [1, 2]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _mr_contexts() -> list[Any]:
    entity = AE()
    entity.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    return entity.requested_contexts
