"""Delivery with a made-up sender: what is recorded for each outcome, and that nothing blocks or is sent twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicomnode.delivery.deliver import Send, deliver_due
from dicomnode.errors import PermanentRefusal, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.shown import plain
from dicomnode.records import Conclusion, ResultFile, SendOutcome
from dicomnode.settings.config import Config, DestinationSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from tests.factories.ledger import MR, header, new_ledger, received, release_owner

OK = SendOutcome("ok", "0x0000: success", 0)
SILENT = SendOutcome("transient", "no answer in time")
BUSY = SendOutcome("transient", "0xA700: out of resources", 0xA700)
REFUSED = SendOutcome("permanent", "0x0122: SOP class not supported", 0x0122)


class Outbox:
    """A ledger and a spool with answered studies, a clock, and a record of what the made-up sender was given."""

    def __init__(self, folder: Path, *names: str, opened: Ledger | None = None) -> None:
        self.folder = folder
        self.ledger = opened or new_ledger(folder)
        self.layout = SpoolLayout(folder / "spool")
        self.config = Config(
            destinations=tuple(
                DestinationSettings(
                    name=name, ae_title=name.upper(), host="127.0.0.1", port=1040, confirm="none"
                )
                for name in names
            )
        )
        self.clock = 100.0
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.lock = threading.Lock()

    def answer(self, number: int, destinations: Sequence[str] = ("pacs",)) -> str:
        """Take study `number` to its results, frozen in the spool."""
        study = f"2.25.{number}"
        self.ledger.instances.add(received(number))
        ((instance_id, _),) = self.ledger.instances.unindexed(1)
        self.ledger.instances.record_header(instance_id, header(number, study), 10)
        job = self.ledger.jobs.waiting()[-1]
        self.ledger.jobs.mark_ready(job.id, "quiet", {}, 20)
        assert self.ledger.jobs.claim("work", 30, 60) is not None
        results = [self.freeze(study, kind, job.revision) for kind in ("seg", "sr")]
        kinds = dict.fromkeys(destinations, ("seg", "sr"))
        self.ledger.jobs.finish(
            job.id, "work", Conclusion(Outcome.LESIONS, "2 lesions", results, kinds, {}), 40
        )
        return study

    def freeze(self, study: str, kind: str, revision: int) -> ResultFile:
        path = self.layout.result_path(study, revision, f"{kind}.dcm")
        data = f"{study} {kind} {revision}".encode()
        file = self.layout.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return ResultFile(
            kind, path, hashlib.sha256(data).hexdigest(), f"{study}.5.{kind == 'sr':d}", MR, f"{study}.6"
        )

    def deliver(self, send: Callable[[str, Sequence[Path]], list[SendOutcome]], **more: Any) -> int:
        def recorded(
            files: Sequence[Path], destination: DestinationSettings, *, calling_ae: str, timeout_s: float
        ) -> list[SendOutcome]:
            assert (calling_ae, timeout_s) == ("DICOMNODE", 30)
            with self.lock:
                self.sent.append((destination.name, tuple(file.read_text() for file in files)))
            return send(destination.name, files)

        typed: Send = recorded
        return deliver_due(self.ledger, self.layout, self.config, lambda: self.clock, send=typed, **more)

    def shown(self, study: str) -> list[dict[str, Any]]:
        deliveries: list[dict[str, Any]] = plain(self.ledger.history.of_study(study))["deliveries"]
        return deliveries

    def states(self, study: str) -> list[str]:
        return [one["state"] for one in self.shown(study)]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path, "pacs", "second")
    yield made
    made.ledger.close()


def always(outcome: SendOutcome) -> Callable[[str, Sequence[Path]], list[SendOutcome]]:
    return lambda _name, files: [outcome] * len(files)


def test_the_objects_of_a_study_travel_together_once(outbox: Outbox) -> None:
    first, second = outbox.answer(1), outbox.answer(2)
    assert outbox.deliver(always(OK)) == 4
    assert outbox.sent == [("pacs", (f"{study} seg 1", f"{study} sr 1")) for study in (first, second)]
    assert outbox.states(first) == outbox.states(second) == ["sent", "sent"]
    assert outbox.ledger.jobs.close_delivered(101) == 2
    outbox.clock = 1e9
    assert outbox.deliver(always(OK)) == 0
    assert len(outbox.sent) == 2


def test_nothing_due_sends_nothing(outbox: Outbox) -> None:
    assert outbox.deliver(always(OK)) == 0
    assert outbox.sent == []


def test_a_transient_failure_backs_off_and_arrives_later_once(outbox: Outbox) -> None:
    study = outbox.answer(1)
    for clock in (100.0, 104.0, 105.0, 114.0):
        outbox.clock = clock
        outbox.deliver(always(SILENT))
    assert len(outbox.sent) == 2
    assert [
        (one["state"], one["attempts"], one["next_attempt_at"], one["last_status"])
        for one in outbox.shown(study)
    ] == [("due", 2, 115, "no answer in time")] * 2
    outbox.clock = 115
    assert outbox.deliver(always(OK)) == 2
    assert outbox.states(study) == ["sent", "sent"]


def test_a_permanent_refusal_stops_and_is_shown(outbox: Outbox) -> None:
    study = outbox.answer(1)
    outbox.deliver(lambda _name, _files: [REFUSED, OK])
    seg, sr = outbox.shown(study)
    assert (seg["state"], seg["last_status"]) == ("given_up", "0x0122: SOP class not supported")
    assert sr["state"] == "sent"
    outbox.clock = 1e9
    assert outbox.deliver(always(OK)) == 0


def test_failing_too_long_is_given_up_and_retry_begins_anew(outbox: Outbox) -> None:
    study = outbox.answer(1)
    outbox.deliver(always(BUSY))
    outbox.clock = 100 + 72 * 3600
    outbox.deliver(always(BUSY))
    assert outbox.states(study) == ["given_up", "given_up"]
    outbox.clock += 60
    outbox.ledger.jobs.retry(study, outbox.clock)
    outbox.deliver(always(BUSY))
    assert [(one["state"], one["attempts"]) for one in outbox.shown(study)] == [("due", 1), ("due", 1)]


@pytest.mark.parametrize(("data", "sentence"), [(b"other bytes", "altered"), (None, "gone")])
def test_a_file_that_is_not_the_verified_one_never_leaves(
    outbox: Outbox, data: bytes | None, sentence: str
) -> None:
    study = outbox.answer(1)
    file = outbox.layout.root / outbox.shown(study)[0]["path"]
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    outbox.deliver(always(OK))
    assert outbox.sent == [("pacs", (f"{study} sr 1",))]
    seg, sr = outbox.shown(study)
    assert (seg["state"], sr["state"]) == ("given_up", "sent")
    assert sentence in seg["last_status"]


def test_a_destination_that_left_the_configuration_stops_and_is_shown(outbox: Outbox) -> None:
    study = outbox.answer(1, ["pacs", "former"])
    outbox.deliver(always(OK))
    assert sorted((one["destination"], one["state"]) for one in outbox.shown(study)) == [
        ("former", "given_up"),
        ("former", "given_up"),
        ("pacs", "sent"),
        ("pacs", "sent"),
    ]
    assert sum("no destination is named former" in one["last_status"] for one in outbox.shown(study)) == 2


def test_a_hanging_destination_holds_up_no_other(outbox: Outbox) -> None:
    """The second destination is through while the first still hangs: the first is freed only by the second's arrival."""
    study = outbox.answer(1, ["pacs", "second"])
    arrived = threading.Event()

    def send(name: str, files: Sequence[Path]) -> list[SendOutcome]:
        if name == "pacs":
            assert arrived.wait(20)
            return [SILENT] * len(files)
        arrived.set()
        return [OK] * len(files)

    assert outbox.deliver(send) == 4
    assert {(one["destination"], one["state"]) for one in outbox.shown(study)} == {
        ("pacs", "due"),
        ("second", "sent"),
    }


def test_a_second_call_leaves_a_busy_destination_alone(outbox: Outbox) -> None:
    outbox.answer(1)
    calls: list[int] = []

    def send(_name: str, files: Sequence[Path]) -> list[SendOutcome]:
        if not calls:
            outbox.answer(2)
            calls.append(outbox.deliver(always(OK)))
        return [OK] * len(files)

    assert outbox.deliver(send) == 4
    assert calls == [0]


def test_calls_at_once_send_each_delivery_once(outbox: Outbox) -> None:
    studies = [outbox.answer(number) for number in range(1, 9)]
    other = new_ledger(outbox.folder)
    calls = [threading.Thread(target=outbox.deliver, args=(always(OK),)) for _ in range(2)]
    calls += [threading.Thread(target=deliver_from, args=(outbox, other)) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    other.close()
    assert sorted(texts for _, texts in outbox.sent) == sorted(
        (f"{study} seg 1", f"{study} sr 1") for study in studies
    )
    assert all(outbox.states(study) == ["sent", "sent"] for study in studies)


def deliver_from(outbox: Outbox, ledger: Ledger) -> None:
    """Deliver as another process would, noting what is sent in the same place."""
    second = Outbox(outbox.folder, "pacs", "second", opened=ledger)
    second.sent, second.lock = outbox.sent, outbox.lock
    second.deliver(always(OK))


def test_silence_spares_the_rest_of_the_round_and_gives_it_precedence_in_the_next(outbox: Outbox) -> None:
    """One study that breaks every association must not keep the others from arriving."""
    poison, healthy = outbox.answer(1), outbox.answer(2)

    def send(_name: str, files: Sequence[Path]) -> list[SendOutcome]:
        return [SILENT if file.read_text().startswith(poison) else OK for file in files]

    assert outbox.deliver(send) == 4
    assert [texts[0] for _, texts in outbox.sent] == [f"{poison} seg 1"]
    assert outbox.states(healthy) == ["due", "due"]
    outbox.clock = 105
    outbox.deliver(send)
    assert [texts[0] for _, texts in outbox.sent] == [
        f"{poison} seg 1",
        f"{healthy} seg 1",
        f"{poison} seg 1",
    ]
    assert (outbox.states(poison), outbox.states(healthy)) == (["due", "due"], ["sent", "sent"])


@pytest.mark.parametrize(
    ("raised", "state", "status"),
    [
        (RetryLater("archive away"), "due", "archive away"),
        (PermanentRefusal("never"), "given_up", "never"),
        (
            ZeroDivisionError("a bug"),
            "due",
            "sending failed with ZeroDivisionError; please report it with the log",
        ),
    ],
)
def test_what_the_sender_raises_is_recorded(
    outbox: Outbox, raised: Exception, state: str, status: str
) -> None:
    study = outbox.answer(1)

    def send(_name: str, _files: Sequence[Path]) -> list[SendOutcome]:
        raise raised

    assert outbox.deliver(send) == 2
    assert [(one["state"], one["last_status"]) for one in outbox.shown(study)] == [(state, status)] * 2


def test_an_object_that_the_sender_forgot_is_tried_again(outbox: Outbox) -> None:
    study = outbox.answer(1)
    outbox.deliver(lambda _name, _files: [OK])
    assert outbox.states(study) == ["sent", "due"]


def test_stopping_gives_back_what_is_not_sent(outbox: Outbox) -> None:
    first, second = outbox.answer(1), outbox.answer(2)
    outbox.deliver(always(OK), stopping=lambda: bool(outbox.sent))
    assert (outbox.states(first), outbox.states(second)) == (["sent", "sent"], ["due", "due"])
    assert outbox.deliver(always(OK)) == 2
    assert len(outbox.sent) == 2


def test_a_result_superseded_while_it_failed_is_withdrawn(outbox: Outbox) -> None:
    study = outbox.answer(1)

    def send(_name: str, files: Sequence[Path]) -> list[SendOutcome]:
        outbox.ledger.instances.add(received(77))
        ((instance_id, _),) = outbox.ledger.instances.unindexed(1)
        outbox.ledger.instances.record_header(instance_id, header(77, study), outbox.clock)
        return [SILENT] * len(files)

    outbox.deliver(send)
    assert outbox.states(study) == ["withdrawn", "withdrawn"]
    assert outbox.ledger.jobs.waiting()[0].revision == 2


def test_a_delivery_held_by_a_dead_process_goes_on_after_its_release(outbox: Outbox) -> None:
    study = outbox.answer(1)
    outbox.ledger.deliveries.claim("work@host/pacs/dead", 100, 600, 10, destination="pacs")
    assert outbox.deliver(always(OK)) == 0
    release_owner(outbox.ledger, "work@host", 101)
    outbox.clock = 101
    assert outbox.deliver(always(OK)) == 2
    assert outbox.states(study) == ["sent", "sent"]
