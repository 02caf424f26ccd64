"""Any verbs in any order: what must always be true of the ledger stays true."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dicomnode.errors import LeaseLost, NodeError, StateError
from dicomnode.records import Delivery, Job
from dicomnode.states import DeliveryState
from tests.factories.ledger import STUDY, LedgerStory, header, new_ledger, received, release_owner

OWNERS = st.sampled_from(["work:1", "work:2"])
LEASE_S = 5.0


class AnyOrder(RuleBasedStateMachine):
    """Two workers and a sender who do anything at any time, also when they should not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = new_ledger(Path(self.folder.name))
        self.story = LedgerStory(self.ledger)
        self.connection = sqlite3.connect(Path(self.folder.name) / "ledger.sqlite3")
        self.clock = 100.0
        self.jobs: list[tuple[str, Job]] = []
        self.held: list[tuple[str, Delivery]] = []
        self.arrived: list[int] = []

    def teardown(self) -> None:
        self.connection.close()
        self.ledger.close()
        self.folder.cleanup()

    @initialize()
    def a_study_is_there(self) -> None:
        self.receive_and_read(1, "")

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds

    @rule(number=st.integers(1, 4), content=st.sampled_from(["", "", "other"]))
    def receive_and_read(self, number: int, content: str) -> None:
        self.ledger.instances.add(received(number, content, self.clock))
        for instance_id, instance in self.ledger.instances.unindexed(10):
            self.ledger.instances.record_header(
                instance_id, header(int(instance.SOPInstanceUID.rsplit(".", 1)[1])), self.clock
            )

    @rule()
    def assess(self) -> None:
        for job in self.ledger.jobs.waiting():
            self.ledger.jobs.mark_ready(job.id, "quiet", {}, self.clock)

    @rule(owner=OWNERS)
    def claim(self, owner: str) -> None:
        job = self.ledger.jobs.claim(owner, self.clock, LEASE_S)
        if job is not None:
            self.jobs.append((owner, job))

    @rule(owner=OWNERS)
    def answer(self, owner: str) -> None:
        """The usual way, at one go, so that the later states are often reached."""
        self.assess()
        self.claim(owner)
        if self.jobs:
            self.end(len(self.jobs) - 1, "finish")

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 9), how=st.sampled_from(["finish", "finish", "release", "fail"]))
    def end(self, which: int, how: str) -> None:
        owner, job = self.jobs.pop(which % len(self.jobs))
        try:
            if how == "finish":
                self.story.finish(job, owner=owner, now=self.clock)
            elif how == "release":
                self.ledger.jobs.release(job.id, owner, "died", self.clock, self.clock + 1)
            else:
                self.ledger.jobs.fail(job.id, owner, "no memory", self.clock)
        except LeaseLost:
            return

    @rule(owner=OWNERS, limit=st.integers(1, 3))
    def claim_to_send(self, owner: str, limit: int) -> None:
        self.held += [(owner, one) for one in self.ledger.deliveries.claim(owner, self.clock, LEASE_S, limit)]

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 9),
        state=st.sampled_from([DeliveryState.SENT, DeliveryState.DUE, DeliveryState.GIVEN_UP]),
    )
    def end_sending(self, which: int, state: DeliveryState) -> None:
        owner, delivery = self.held.pop(which % len(self.held))
        next_attempt_at = self.clock + 2 if state is DeliveryState.DUE else None
        kept = self.ledger.deliveries.record(
            delivery.id, state, state.value, self.clock, next_attempt_at, owner=owner
        )
        if kept and state is DeliveryState.SENT:
            self.arrived.append(delivery.id)

    @rule(rerun=st.booleans())
    def retry(self, rerun: bool) -> None:
        try:
            self.ledger.jobs.retry(STUDY, self.clock, rerun=rerun)
        except StateError as bug:
            raise AssertionError from bug
        except NodeError:
            return

    @rule(owner=OWNERS)
    def restart(self, owner: str) -> None:
        release_owner(self.ledger, owner, self.clock)

    @rule()
    def close_delivered(self) -> None:
        self.ledger.jobs.close_delivered(self.clock)

    def count(self, condition: str) -> int:
        number: int = self.connection.execute(f"SELECT count(*) FROM {condition}").fetchone()[0]
        return number

    @invariant()
    def only_the_newest_revision_is_alive(self) -> None:
        assert self.count("jobs WHERE state <> 'superseded'") == (1 if self.count("studies") else 0)
        assert (
            self.count("jobs WHERE state <> 'superseded' AND revision < (SELECT max(revision) FROM jobs)")
            == 0
        )

    @invariant()
    def exactly_what_runs_and_what_is_being_sent_has_an_owner(self) -> None:
        for table, state in (("jobs", "running"), ("deliveries", "sending")):
            assert (
                self.count(
                    f"{table} WHERE (state = '{state}') <> (owner IS NOT NULL AND lease_until IS NOT NULL)"
                )
                == 0
            )

    @invariant()
    def nothing_of_a_superseded_job_is_still_to_be_sent(self) -> None:
        superseded = "job_id IN (SELECT id FROM jobs WHERE state = 'superseded')"
        assert self.count(f"deliveries WHERE state IN ('due', 'given_up') AND {superseded}") == 0

    @invariant()
    def what_is_done_has_nothing_left_to_send(self) -> None:
        finished = "job_id IN (SELECT id FROM jobs WHERE state = 'done')"
        assert self.count(f"deliveries WHERE state IN ('due', 'sending', 'given_up') AND {finished}") == 0

    @invariant()
    def one_set_of_results_is_on_its_way_at_a_time(self) -> None:
        live = "SELECT deliveries.job_id, kind FROM deliveries JOIN results ON results.id = result_id WHERE state IN ('due', 'sending', 'given_up')"
        assert self.count(f"({live} GROUP BY 1, 2 HAVING count(*) > 1)") == 0

    @invariant()
    def nothing_arrives_twice(self) -> None:
        assert len(self.arrived) == len(set(self.arrived)) == self.count("deliveries WHERE state = 'sent'")


AnyOrder.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestAnyOrder = AnyOrder.TestCase
