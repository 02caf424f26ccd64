"""The clock jumps an hour back or forward at any moment of a study's life: nothing is lost, nothing comes twice, nothing waits for the old time."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from dicomnode import flow
from dicomnode.answer import StudyAnswer
from dicomnode.compute import Compute
from dicomnode.delivery.confirm import confirm_due
from dicomnode.delivery.deliver import deliver_due
from dicomnode.errors import RetryLater
from dicomnode.ledger.shown import plain
from dicomnode.records import InstanceHeader, ResultFile, SendOutcome, SOPReference
from dicomnode.settings.config import DestinationSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.states import Outcome
from dicomnode.working import readiness
from tests.factories.ledger import SEG, SR, header, new_ledger, received

STUDY = "2.25.1"
HOUR = 3600.0
NOON = 1_800_000_000.0
# The slowest lawful way: quiet time, a back-off after a failure, a lease of somebody who died (20 timeouts), and the tolerance.
PATIENCE_S = 900


class Node:
    """Ledger and flow on a clock that is set by hand; the archive and the worker are made up."""

    closed = False
    worker_count = 1

    def __init__(self, folder: Path, confirm: str) -> None:
        self.now = NOON
        self.ledger = new_ledger(folder)
        self.layout = SpoolLayout(folder / "spool")
        destination = {
            "name": "pacs",
            "ae_title": "PACS",
            "host": "127.0.0.1",
            "port": 104,
            "confirm": confirm,
        }
        self.config = parse_config(
            {"storage": {"root": str(folder), "minimum_free_mb": 1}, "destinations": [destination]}
        )
        self.place = flow.Workplace(
            self.config,
            self.ledger,
            self.layout,
            cast("Compute", self),
            "work@here",
            lambda: self.now,
            lambda: f"2.25.9{self.asked}",
        )
        self.archive: Counter[str] = Counter()
        self.archive_is_away = self.worker_fails = False
        self.asked = self.computed = 0
        self.while_computing: Callable[[], None] = lambda: None

    def jump(self, seconds: float) -> None:
        self.now += seconds

    def receive(self, number: int) -> None:
        self.ledger.instances.add(received(number, at=self.now))

    def step(self, seconds: float = 1.0) -> None:
        """Let the time pass, and do what the timers trigger."""
        self.now += seconds
        flow.mend_times(self.place)
        flow.index_instances(self.place)
        flow.assess_studies(self.place)
        flow.answer_next(self.place)
        flow.deliver_results(self.place)
        flow.confirm_results(self.place)

    def step_until(self, what: Callable[[], bool], step_s: int = 10) -> float:
        """Step until it is so; return after how many seconds."""
        for passed in range(0, PATIENCE_S, step_s):
            if what():
                return passed
            self.step(step_s)
        raise AssertionError(f"not within {PATIENCE_S} s: {plain(self.ledger.history.of_study(STUDY))}")

    @property
    def job(self) -> dict[str, Any]:
        jobs = plain(self.ledger.history.of_study(STUDY)).get("jobs") or [{"state": ""}]
        return dict(jobs[-1])

    def is_at(self, state: str) -> Callable[[], bool]:
        return lambda: self.job["state"] == state

    def deliveries(self) -> set[str]:
        return {one["state"] for one in plain(self.ledger.history.of_study(STUDY))["deliveries"]}

    # What flow works with.

    def run(self, _function: Any, _argument: Any, *, tick: Callable[[], None], **_more: Any) -> StudyAnswer:
        if self.worker_fails:
            self.worker_fails = False
            raise RetryLater("the worker died")
        self.while_computing()
        tick()
        self.computed += 1
        return StudyAnswer(Outcome.LESIONS, "1 lesion.", (self.freeze("seg", SEG), self.freeze("sr", SR)))

    def freeze(self, kind: str, SOPClassUID: str) -> ResultFile:
        path = self.layout.result_path(STUDY, 1, f"{kind}.dcm")
        (self.layout.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.layout.root / path).write_bytes(kind.encode())
        return ResultFile(
            kind, path, hashlib.sha256(kind.encode()).hexdigest(), f"2.25.7.{kind}", SOPClassUID, "2.25.7"
        )

    def send(
        self, files: Sequence[Path], _destination: DestinationSettings, **_more: Any
    ) -> list[SendOutcome]:
        if self.archive_is_away:
            return [SendOutcome("transient", "the peer cannot be reached")] * len(files)
        self.archive.update(path.name for path in files)
        return [SendOutcome("ok", "0x0000: success", 0)] * len(files)

    def ask(
        self,
        _destination: DestinationSettings,
        _references: Sequence[SOPReference],
        _transaction: str,
        **_more: Any,
    ) -> SendOutcome:
        """Take a storage commitment and never report on it, so that the node has to wait and look."""
        self.asked += 1
        return SendOutcome("ok", "0x0000: success", 0)

    def find(self, _destination: DestinationSettings, wanted: Sequence[Any], **_more: Any) -> frozenset[str]:
        return frozenset(one.SOPInstanceUID for one in wanted)

    def read_header(self, path: Path) -> InstanceHeader:
        return next(
            header(number, STUDY) for number in range(1, 9) if Path(received(number).path).name == path.name
        )


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def begin(confirm: str = "none") -> Node:
        node = Node(tmp_path, confirm)
        nodes.append(node)
        monkeypatch.setattr(readiness, "read_header", node.read_header)
        monkeypatch.setattr(flow, "deliver_due", functools.partial(deliver_due, send=node.send))
        monkeypatch.setattr(flow, "confirm_due", functools.partial(confirm_due, ask=node.ask, find=node.find))
        return node

    yield begin
    for node in nodes:
        node.ledger.close()


def reach(node: Node, moment: str) -> None:
    """Bring a study to a moment at which something waits for a time."""
    for number in (1, 2, 3):
        node.receive(number)
    node.step()
    if moment == "quiet time":
        return
    node.worker_fails = moment == "back-off of the job"
    node.archive_is_away = moment == "back-off of the delivery"
    if moment == "lease of a dead worker":
        node.now += 100
        assert flow.assess_studies(node.place) == 1
        assert node.ledger.jobs.claim("work@elsewhere/1", node.now, flow.LEASE_S) is not None
    elif moment == "lease of a dead sender":
        node.archive_is_away = True
        node.step_until(node.is_at("encoded"))
        node.archive_is_away = False
        node.now += 1000
        assert len(node.ledger.deliveries.claim("deliver@elsewhere", node.now, 600, 10)) == 2
    elif moment == "back-off of the job":
        node.step_until(lambda: "worker died" in node.job.get("reason", ""))
    elif moment == "back-off of the delivery":
        # Some tries, so that the wait is a long one.
        node.step_until(
            lambda: all(
                one["attempts"] >= 4
                for one in plain(node.ledger.history.of_study(STUDY))["deliveries"] or [{"attempts": 0}]
            )
        )
        node.archive_is_away = False
    elif moment == "wait for proof":
        node.step_until(lambda: node.asked == 1)


MOMENTS = [
    "quiet time",
    "back-off of the job",
    "lease of a dead worker",
    "back-off of the delivery",
    "lease of a dead sender",
    "wait for proof",
]


@pytest.mark.parametrize("seconds", [-HOUR, HOUR, -24 * HOUR])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_study_is_answered_and_delivered_once_in_good_time(
    start: Callable[..., Node], moment: str, seconds: float
) -> None:
    node = start("auto" if moment == "wait for proof" else "none")
    reach(node, moment)

    node.jump(seconds)

    node.step_until(node.is_at("done"))
    assert (node.job["revision"], node.job["outcome"], node.computed) == (1, "lesions", 1)
    assert node.archive == {"seg.dcm": 1, "sr.dcm": 1}
    assert node.deliveries() == {"confirmed" if moment == "wait for proof" else "sent"}


@pytest.mark.parametrize("seconds", [-HOUR, -24 * HOUR])
def test_a_clock_set_back_while_a_study_is_received(start: Callable[..., Node], seconds: float) -> None:
    node = start()
    for number in range(1, 9):
        node.receive(number)
        if number == 4:
            node.jump(seconds)
        node.step(5)
        node.step(5)

    waited_s = node.step_until(node.is_at("done"), step_s=5)

    # As long as without: the quiet time counts from the last one.
    assert node.config.study.quiet_s - 15 <= waited_s <= node.config.study.quiet_s
    assert (node.job["revision"], node.computed, node.archive) == (1, 1, {"seg.dcm": 1, "sr.dcm": 1})


def test_a_clock_set_forward_while_a_study_is_received_is_a_study_with_late_instances(
    start: Callable[..., Node],
) -> None:
    node = start()
    for number in range(1, 9):
        node.receive(number)
        if number == 4:
            node.jump(HOUR)
        node.step(5)
        node.step(5)
    node.step_until(node.is_at("done"))

    history = plain(node.ledger.history.of_study(STUDY))
    assert [job["state"] for job in history["jobs"]] == [*["superseded"] * (len(history["jobs"]) - 1), "done"]
    assert [series["instances"] for series in history["series"]] == [8]
    # What was answered too early is answered anew under the same UIDs, so the archive has one answer.
    assert set(node.archive) == {"seg.dcm", "sr.dcm"}
    assert max(node.archive.values()) <= len(history["jobs"]) == 2


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_clock_that_jumps_while_a_study_is_computed_takes_it_from_nobody(
    start: Callable[..., Node], seconds: float
) -> None:
    node = start()

    def jump_and_look() -> None:
        node.jump(seconds)
        flow.mend_times(node.place)
        node.while_computing = lambda: None

    node.while_computing = jump_and_look
    reach(node, "quiet time")

    node.step_until(node.is_at("done"))
    assert (node.job["attempts"], node.computed, node.archive) == (1, 1, {"seg.dcm": 1, "sr.dcm": 1})


def test_a_clock_that_goes_right_changes_nothing(start: Callable[..., Node]) -> None:
    node = start("auto")
    mended = 0
    node.archive_is_away = True
    for number in range(1, 9):
        node.receive(number)
        node.step()
    for second in range(0, 900, 10):
        node.archive_is_away = second < 300
        mended += flow.mend_times(node.place)
        node.step(10)
    assert (mended, node.job["state"]) == (0, "done")


@pytest.mark.parametrize("what", ["fetch", "offer", "commitment"])
def test_what_else_waits_for_a_time_is_due_when_the_clock_is_set_back(
    start: Callable[..., Node], what: str
) -> None:
    node = start()
    ledger = node.ledger
    reach(node, "quiet time")
    references = [SOPReference("1.2", "1.2.3")]
    if what == "fetch":
        ledger.fetches.want(STUDY, "series", node.now)
        ledger.fetches.record(STUDY, "series", "not fetched", node.now, node.now + 30)
    elif what == "offer":
        ledger.offers.learn("pacs", "here", {}, node.now, node.now + node.config.delivery.learn_s)
    else:
        ledger.commitments.ask("PEER", "10.0.0.1", "1.2.9", references, node.now, node.now + 600)

    def is_due() -> bool:
        due = {
            "fetch": lambda: ledger.fetches.due(node.now) != [],
            "offer": lambda: ledger.offers.is_due("pacs", "here", node.now),
            "commitment": lambda: ledger.commitments.due(node.now) != [],
        }
        return due[what]()

    assert not is_due()
    node.jump(-HOUR)
    flow.mend_times(node.place)
    assert is_due()
