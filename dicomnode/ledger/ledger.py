"""`Ledger`: the node's memory as small verbs, one transaction each. Thread-safe; two processes may use one ledger at once.

Rules for this file:
1. A verb opens one transaction and calls one function; the SQL is in the module of the concern.
2. Nothing reads a clock: times come in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import IntegrityError

from dicomnode.errors import NodeError
from dicomnode.ledger import deliveries, history, instances, jobs, retention
from dicomnode.ledger.clock import Times
from dicomnode.ledger.commitments import Commitments
from dicomnode.ledger.confirmations import Confirmations
from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import header_to_json
from dicomnode.ledger.events import add_event
from dicomnode.ledger.fetches import Fetches
from dicomnode.ledger.gather import Gather
from dicomnode.ledger.migrate import migrate
from dicomnode.ledger.offers import Offers
from dicomnode.records import AddOutcome, Delivery, IndexedInstance, InstanceHeader, Job, ReceivedInstance, ResultFile, SetAside
from dicomnode.states import DeliveryState, JobState, Outcome


class Ledger:
    """What arrived, what is to be done with it, what became of it.

    Every verb may raise `RetryLater` when the ledger stays locked or is away; none leaves a change half made.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.confirmations = Confirmations(database)
        self.commitments = Commitments(database)
        self.fetches = Fetches(database)
        self.offers = Offers(database)
        self.times = Times(database)
        self._add_instance: Gather[ReceivedInstance, AddOutcome] = Gather(self._add_instances)

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Open the ledger at a SQLAlchemy URL and bring its tables up to date; `StartError` when that cannot be."""
        database = Database(url)
        migrate(database)
        return cls(database)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    # Receiving.

    def add_instance(self, instance: ReceivedInstance) -> AddOutcome:
        """List an instance that is safe in the spool: "new", "duplicate" (the same bytes) or "conflict" (same UID, other bytes).

        Threads that call at the same time share a transaction.
        """
        return self._add_instance(instance)

    def instance_paths(self) -> set[str]:
        """Return the spool paths of every listed instance."""
        with self._database.read() as connection:
            return instances.paths(connection)

    def _add_instances(self, group: Sequence[ReceivedInstance]) -> list[AddOutcome | Exception]:
        try:
            with self._database.write() as connection:
                instances.add_first(connection, group)
            return ["new"] * len(group)
        except IntegrityError:
            return [self._add_one(instance) for instance in group]

    def _add_one(self, instance: ReceivedInstance) -> AddOutcome | Exception:
        try:
            with self._database.write() as connection:
                return instances.add_again(connection, instance)
        except NodeError as fault:
            return fault

    # Reading headers.

    def unindexed_instances(self, limit: int) -> list[tuple[int, ReceivedInstance]]:
        """Return instances whose header has not been read, with their ids, oldest first."""
        with self._database.read() as connection:
            return instances.unindexed(connection, limit)

    def oldest_unread_at(self) -> float | None:
        """Return when the first of the instances came whose header has not been read; None when all are."""
        with self._database.read() as connection:
            return instances.oldest_unread_at(connection)

    def record_header(self, instance_id: int, header: InstanceHeader, now: float, *, reopens: bool = True) -> None:
        """Note what an instance is; open its study's job, or supersede one that began without it and open the next revision.

        Duplicates, conflicts, our own results and a second reading never supersede; nor does anything with `reopens` false.
        """
        # Encoded before the lock: many-framed headers take their time, and reception waits for the lock.
        encoded = header_to_json(header)
        with self._database.write() as connection:
            instances.record_header(connection, instance_id, header, encoded, now, reopens)

    def record_unreadable(self, instance_id: int, reason: str, now: float, *, StudyInstanceUID: str = "") -> None:
        """Set an instance aside; when it says which study it is of, that study will be answered even if nothing else comes."""
        with self._database.write() as connection:
            instances.record_unreadable(connection, instance_id, reason, now, StudyInstanceUID)

    # Studies.

    def waiting_jobs(self) -> list[Job]:
        """Return the jobs whose study is not known to be complete, oldest first."""
        with self._database.read() as connection:
            return jobs.waiting(connection)

    def study_instances(self, StudyInstanceUID: str) -> list[IndexedInstance]:
        """Return a study's readable instances in the order in which they came; of conflicting ones the first."""
        with self._database.read() as connection:
            return instances.of_study(connection, StudyInstanceUID)

    def set_aside(self, StudyInstanceUID: str) -> list[SetAside]:
        """Return the instances of a study that could not be read and did not come again whole."""
        with self._database.read() as connection:
            return instances.set_aside(connection, StudyInstanceUID)

    def last_received_at(self, StudyInstanceUID: str) -> float:
        """Return when a study's newest instance came; `NodeError` when the study is not known."""
        with self._database.read() as connection:
            return instances.last_received_at(connection, StudyInstanceUID)

    def mark_ready(self, job_id: int, reason: str, evidence: Mapping[str, Any], now: float) -> None:
        """WAITING -> READY; `reason` and `evidence` are kept and shown."""
        with self._database.write() as connection:
            jobs.mark_ready(connection, job_id, reason, evidence, now)

    def segmentations(self, besides: str, limit: int) -> list[tuple[str, str]]:
        """Return (study, spool path) of the newest segmentations of other studies; of each study the newest."""
        with self._database.read() as connection:
            return history.segmentations(connection, besides, limit)

    # Jobs.

    def claim_job(self, owner: str, now: float, lease_s: float) -> Job | None:
        """Take the job that has been ready longest: READY -> RUNNING, one more attempt. An expired lease counts as ready."""
        with self._database.write() as connection:
            return jobs.claim(connection, owner, now, lease_s)

    def renew_lease(self, job_id: int, owner: str, now: float, lease_s: float) -> bool:
        """Prolong a lease; False when the job is no longer `owner`'s: superseded, or taken over."""
        with self._database.write() as connection:
            return jobs.renew(connection, job_id, owner, now, lease_s)

    def release_job(self, job_id: int, owner: str, reason: str, now: float, retry_at: float) -> None:
        """RUNNING -> READY, not before `retry_at`. `LeaseLost` when no longer `owner`'s."""
        with self._database.write() as connection:
            jobs.release(connection, job_id, owner, reason, now, retry_at)

    def finish_job(
        self,
        job_id: int,
        owner: str,
        outcome: Outcome,
        reason: str,
        results: Sequence[ResultFile],
        destinations: Mapping[str, Sequence[str]],
        detail: Mapping[str, Any],
        now: float,
    ) -> None:
        """RUNNING -> ENCODED, with its results and due deliveries. `LeaseLost` when no longer `owner`'s.

        `destinations` says which kinds of result go to which name; `detail` is added to the job's and shown.
        """
        with self._database.write() as connection:
            jobs.finish(connection, job_id, owner, outcome, reason, results, destinations, detail, now)

    def earlier_reports(self, StudyInstanceUID: str, revision: int) -> list[ResultFile]:
        """Return the reports of earlier revisions of a study that have reached somebody, the newest first."""
        with self._database.read() as connection:
            return jobs.earlier_reports(connection, StudyInstanceUID, revision)

    def fail_job(self, job_id: int, owner: str, reason: str, now: float) -> None:
        """RUNNING -> FAILED: not even a report could be made. `LeaseLost` when no longer `owner`'s."""
        with self._database.write() as connection:
            jobs.fail(connection, job_id, owner, reason, now)

    def retry_job(self, StudyInstanceUID: str, now: float, *, rerun: bool = False, reason: str = "asked for by the operator") -> Job:
        """Try again: deliver the undelivered when there is any and not `rerun`, else process anew. `NodeError` when that cannot be."""
        with self._database.write() as connection:
            return jobs.retry(connection, StudyInstanceUID, now, rerun, reason)

    def close_delivered_jobs(self, now: float) -> int:
        """ENCODED -> DONE where every delivery arrived or was withdrawn; return how many."""
        with self._database.write() as connection:
            return jobs.close_delivered(connection, now)

    def release_owner(self, owner_prefix: str, now: float) -> int:
        """Give back what dead owners held: RUNNING -> READY, SENDING -> DUE; return how many."""
        with self._database.write() as connection:
            return jobs.release_owner(connection, owner_prefix, now) + deliveries.release_owner(connection, owner_prefix, now)

    # Deliveries.

    def due_destinations(self, now: float) -> list[str]:
        """Return the destinations that something is due for and that nobody is sending to."""
        with self._database.read() as connection:
            return deliveries.due_destinations(connection, now)

    def claim_deliveries(self, owner: str, now: float, lease_s: float, limit: int, *, destination: str | None = None) -> list[Delivery]:
        """Take due deliveries, the longest due first: DUE -> SENDING, one more attempt. An expired lease counts as due."""
        with self._database.write() as connection:
            return deliveries.claim(connection, owner, now, lease_s, limit, destination)

    def renew_deliveries(self, owner: str, now: float, lease_s: float) -> set[int]:
        """Prolong the lease of what `owner` is sending; return the ids of those deliveries."""
        with self._database.write() as connection:
            return deliveries.renew(connection, owner, now, lease_s)

    def record_delivery(
        self,
        delivery_id: int,
        state: DeliveryState,
        status: str,
        now: float,
        next_attempt_at: float | None = None,
        *,
        owner: str | None = None,
        confirm_at: float | None = None,
    ) -> bool:
        """Note what became of a delivery; a failed one of a superseded job is withdrawn. False when `owner` no longer holds it.

        What is sent with a `confirm_at` is not done yet: `confirmations` asks after it then.
        """
        with self._database.write() as connection:
            return deliveries.record(connection, delivery_id, state, status, now, next_attempt_at, owner, confirm_at)

    def given_up_in_another_form(self, destination: str, kinds: Sequence[str], before: float) -> list[str]:
        """Return the answered studies of which a destination was given up before a time with what is none of these kinds."""
        with self._database.read() as connection:
            return deliveries.given_up_in_another_form(connection, destination, kinds, before)

    # Showing.

    def add_event(self, StudyInstanceUID: str, what: str, detail: Mapping[str, Any], now: float) -> None:
        """Append to a study's diary."""
        with self._database.write() as connection:
            add_event(connection, StudyInstanceUID, what, detail, now)

    def studies(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return one line per study, the last received first."""
        with self._database.read() as connection:
            return history.newest_studies(connection, limit)

    def study_history(self, StudyInstanceUID: str) -> dict[str, Any]:
        """Return everything known of a study: transfers, series, jobs with results, deliveries, events; empty when it is not known."""
        with self._database.read() as connection:
            return history.of_study(connection, StudyInstanceUID)

    def health(self) -> dict[str, Any]:
        """Return counts per job state, delivery state, destination and reading, and since when the oldest work waits."""
        with self._database.read() as connection:
            return history.health(connection)

    def open_studies(self) -> int:
        """Return how many studies wait for their answer."""
        counts = self.health()["jobs"]
        return sum(counts[state.value] for state in (JobState.WAITING, JobState.READY, JobState.RUNNING))

    # Retention.

    def expired_studies(self, before: float) -> list[str]:
        """Return the studies last received or worked on before a time that nothing is left to do for, oldest first."""
        with self._database.read() as connection:
            return retention.expired_studies(connection, before)

    def result_paths(self) -> set[str]:
        """Return the spool paths of every result."""
        with self._database.read() as connection:
            return retention.result_paths(connection)

    def expire_study(self, StudyInstanceUID: str, before: float, remove: Callable[[set[str]], None]) -> bool:
        """Have the files of an expired study removed, then its rows; False when it is not expired any more.

        `remove` runs while nobody else can write: an instance is acknowledged as known either before, and then the study stays,
        or after, when `receive` sees that the file is gone.
        """
        with self._database.write() as connection:
            return retention.expire_study(connection, StudyInstanceUID, before, remove)

    def expired_unreadable(self, before: float) -> list[str]:
        """Return the spool paths of unreadable instances that came before a time."""
        with self._database.read() as connection:
            return retention.expired_unreadable(connection, before)

    def expire_unreadable(self, path: str, before: float, remove: Callable[[set[str]], None]) -> bool:
        """Have the file of an expired unreadable instance removed, then its row; False when it is not expired any more."""
        with self._database.write() as connection:
            return retention.expire_unreadable(connection, path, before, remove)
