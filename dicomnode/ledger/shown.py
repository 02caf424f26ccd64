"""The story of the node as frozen records: what `status`, `why` and the web page show.

Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Health:
    """Counts per job state, delivery state, destination and reading, and since when the oldest work waits.

    `without_study` counts the instances that say of no study that they are of it.
    """

    jobs: Mapping[str, int]
    deliveries: Mapping[str, int]
    destinations: Mapping[str, Mapping[str, int]]
    instances: Mapping[str, int]
    without_study: int
    conflicts: int
    studies: int
    oldest_waiting_since: float | None
    oldest_ready_since: float | None
    oldest_undelivered_since: float | None


@dataclass(frozen=True)
class FailingLine:
    """A destination with deliveries that fail.

    Since when the oldest of them does, how many wait, and when it last took something.
    """

    destination: str
    failing_since: float
    deliveries: int
    last_sent_at: float | None

    @property
    def is_down(self) -> bool:
        """Whether it has taken nothing since its oldest failure."""
        return self.last_sent_at is None or self.last_sent_at < self.failing_since


@dataclass(frozen=True)
class JobLine:
    """Where one revision of a study stands.

    `step` is what its computation is at, since `step_since`; None where nothing is computed.
    """

    id: int
    revision: int
    state: str
    attempts: int
    reason: str
    outcome: str | None
    owner: str | None
    lease_until: float | None
    not_before: float
    created_at: float
    updated_at: float
    step: str | None
    step_since: float | None


@dataclass(frozen=True)
class ResultLine:
    """One result of a revision."""

    kind: str
    path: str
    sha256: str
    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str
    created_at: float


@dataclass(frozen=True)
class JobStory(JobLine):
    """One revision of a study with all that was decided and made; `detail` holds JSON types."""

    detail: Mapping[str, Any]
    results: tuple[ResultLine, ...]


@dataclass(frozen=True)
class StudyLine:
    """One study: its readable instances, its newest job, and that job's deliveries per state."""

    StudyInstanceUID: str
    first_received_at: float
    last_received_at: float
    instances: int
    series: int
    job: JobLine | None
    deliveries: Mapping[str, int]


@dataclass(frozen=True)
class TransferLine:
    """What one sender sent without a longer pause."""

    calling_ae: str
    peer_host: str
    since: float
    until: float
    instances: int


@dataclass(frozen=True)
class SeriesLine:
    """One series: the instances that are used.

    It lists the instances that are used, then those that are kept but not used because another version has
    the same UID.
    """

    SeriesInstanceUID: str
    SeriesNumber: int | None
    Modality: str
    SeriesDescription: str
    ProtocolName: str
    instances: int
    conflicts: int
    size_bytes: int


@dataclass(frozen=True)
class InstanceLine:
    """One received instance; `reason` says why it cannot be used, and is empty where it can."""

    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str | None
    path: str
    calling_ae: str
    peer_host: str
    received_at: float
    reason: str


@dataclass(frozen=True)
class DeliveryLine:
    """One result on its way to one destination."""

    id: int
    job_id: int
    destination: str
    state: str
    attempts: int
    next_attempt_at: float
    first_failed_at: float | None
    last_status: str
    updated_at: float
    sent_at: float | None
    confirm_at: float | None
    confirm_tries: int
    resends: int
    kind: str
    SOPInstanceUID: str
    path: str


@dataclass(frozen=True)
class EventLine:
    """One line of a study's diary; `detail` holds JSON types."""

    at: float
    event: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class StudyHistory:
    """Everything that the ledger knows of one study."""

    StudyInstanceUID: str
    first_received_at: float
    last_received_at: float
    received: tuple[TransferLine, ...]
    series: tuple[SeriesLine, ...]
    conflicts: tuple[InstanceLine, ...]
    own_results_received: int
    unreadable: tuple[InstanceLine, ...]
    jobs: tuple[JobStory, ...]
    deliveries: tuple[DeliveryLine, ...]
    events: tuple[EventLine, ...]


def plain(record: Any) -> Any:
    """Return these records as JSON types: a record as a mapping of its fields, a tuple as a list.

    None stays None.
    """
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: plain(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, Mapping):
        return {key: plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [plain(item) for item in record]
    return record
