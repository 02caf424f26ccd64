"""The ledger's tables.

Columns that are DICOM elements carry their keyword; times are seconds since the epoch (UTC).

Rules for this file:
1. Only tables. What may follow what is in `dicomnode.states`; the steps that build these tables are in
   `migrations`.
2. Nothing here may be SQLite's alone: PostgreSQL runs the same tables.

A row of `instances` with `arrival` 0 is the first that came with its SOP Instance UID; a later one with other
bytes is a conflict and counts on from 1. The bytes themselves are in the spool.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class StorableText(TypeDecorator[str]):
    """Text that every database takes: descriptions of scanners and words of peers stand in it.

    PostgreSQL refuses a NUL, and what is no UTF-8; both become a mark.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as it is written."""
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Reading(StrEnum):
    """Whether the header of a stored instance has been read."""

    NEW = "new"
    INDEXED = "indexed"
    OWN_RESULT = "own_result"
    UNREADABLE = "unreadable"


studies = Table(
    "studies",
    metadata,
    Column("StudyInstanceUID", String, primary_key=True),
    Column("first_received_at", Double, nullable=False),
    Column("last_received_at", Double, nullable=False),
    Index("ix_studies_last_received_at", "last_received_at", "StudyInstanceUID"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("SOPInstanceUID", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("arrival", Integer, nullable=False),
    Column("SOPClassUID", String, nullable=False),
    Column("TransferSyntaxUID", String, nullable=False),
    Column("path", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("calling_ae", String, nullable=False),
    Column("peer_host", String, nullable=False),
    Column("called_ae", String, nullable=False, server_default=""),
    Column("received_at", Double, nullable=False),
    Column("reading", String, nullable=False),
    Column("StudyInstanceUID", String, ForeignKey("studies.StudyInstanceUID")),
    Column("SeriesInstanceUID", String),
    Column("header", StorableText),
    Column("unreadable_because", StorableText),
    Column("indexed_at", Double),
    UniqueConstraint("SOPInstanceUID", "sha256"),
    UniqueConstraint("SOPInstanceUID", "arrival"),
    Index("ix_instances_StudyInstanceUID", "StudyInstanceUID"),
    Index("ix_instances_path", "path"),
    sqlite_autoincrement=True,
)
# Partial, so that finding the few unread ones among many stays cheap, and so does storing one.
_unread = instances.c.reading == Reading.NEW.value
Index("ix_instances_unread", instances.c.id, sqlite_where=_unread, postgresql_where=_unread)
NOT_INDEXED = instances.c.reading != text("'indexed'")
"""What is plainly indexed has no place in the index of the others; a query needs these very words to find it.
"""
Index("ix_instances_not_indexed", instances.c.reading, sqlite_where=NOT_INDEXED, postgresql_where=NOT_INDEXED)
HAS_VERSIONS = instances.c.arrival > text("0")
# The narrowest index there can be: counting all instances reads the whole of one.
Index("ix_instances_arrival", instances.c.arrival)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("StudyInstanceUID", String, ForeignKey("studies.StudyInstanceUID"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", StorableText, nullable=False),
    Column("outcome", String),
    Column("detail", StorableText, nullable=False),
    Column("owner", String),
    Column("lease_until", Double),
    Column("not_before", Double, nullable=False),
    # The larger goes first among those that are due.
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    # What its computation is at, and since when; empty where nothing is computed.
    Column("step", String),
    Column("step_since", Double),
    UniqueConstraint("StudyInstanceUID", "revision"),
    Index("ix_jobs_state_not_before", "state", "not_before"),
    sqlite_autoincrement=True,
)

results = Table(
    "results",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("path", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("SOPInstanceUID", String, nullable=False),
    Column("SOPClassUID", String, nullable=False),
    Column("SeriesInstanceUID", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("ix_results_job_id", "job_id"),
    Index("ix_results_SOPInstanceUID", "SOPInstanceUID"),
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", Integer, ForeignKey("jobs.id"), nullable=False),
    Column("result_id", Integer, ForeignKey("results.id"), nullable=False),
    Column("StudyInstanceUID", String, nullable=False),
    Column("destination", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Double, nullable=False),
    Column("first_failed_at", Double),
    Column("last_status", StorableText, nullable=False),
    Column("owner", String),
    Column("lease_until", Double),
    Column("updated_at", Double, nullable=False),
    # What is sent and has a `confirm_at` is to be asked after then; without one nothing is left to be done
    # for it.
    Column("sent_at", Double),
    Column("confirm_at", Double),
    Column("confirm_tries", Integer, nullable=False, server_default="0"),
    Column("resends", Integer, nullable=False, server_default="0"),
    Column("TransactionUID", String),
    UniqueConstraint("result_id", "destination"),
    Index("ix_deliveries_state_destination_next_attempt_at", "state", "destination", "next_attempt_at"),
    Index("ix_deliveries_TransactionUID", "TransactionUID"),
    Index("ix_deliveries_job_id", "job_id"),
    Index("ix_deliveries_StudyInstanceUID", "StudyInstanceUID"),
    Index("ix_deliveries_lease_until", "lease_until"),
    Index("ix_deliveries_first_failed_at", "first_failed_at"),
    sqlite_autoincrement=True,
)

# Storage commitment that we asked for: written down before it is asked.
transactions = Table(
    "transactions",
    metadata,
    Column("TransactionUID", String, primary_key=True),
    Column("destination", String, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("reported_at", Double),
    Column("report", StorableText),
)

# Storage commitment that others asked us for; `due_at` is empty when there is nothing left to say.
commitment_requests = Table(
    "commitment_requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("calling_ae", String, nullable=False),
    Column("peer_host", String, nullable=False),
    Column("TransactionUID", String, nullable=False),
    Column("asked_for", StorableText, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("due_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("last_status", StorableText, nullable=False),
    UniqueConstraint("calling_ae", "TransactionUID"),
    Index("ix_commitment_requests_due_at", "due_at"),
    sqlite_autoincrement=True,
)

# What is to be fetched from an archive before a study is worked on; without `due_at` it is done, or given up.
fetches = Table(
    "fetches",
    metadata,
    Column("StudyInstanceUID", String, primary_key=True),
    Column("what", String, primary_key=True),
    Column("due_at", Double),
    Column("attempts", Integer, nullable=False),
    Column("detail", StorableText, nullable=False),
    Index("ix_fetches_due_at", "due_at"),
)

# How many images an archive lists of a series, and since when it has listed so many.
archive_counts = Table(
    "archive_counts",
    metadata,
    Column("SeriesInstanceUID", String, primary_key=True),
    Column("StudyInstanceUID", String, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("since", Double, nullable=False),
    Column("asked_at", Double, nullable=False),
    Index("ix_archive_counts_StudyInstanceUID", "StudyInstanceUID"),
    Index("ix_archive_counts_asked_at", "asked_at"),
)

# When an archive was last asked for the counts of a study, whatever it said.
archive_askings = Table(
    "archive_askings",
    metadata,
    Column("StudyInstanceUID", String, primary_key=True),
    Column("asked_at", Double, nullable=False),
    Index("ix_archive_askings_asked_at", "asked_at"),
)

# What a destination accepts (SOP Class UID -> transfer syntaxes), as it last said; without `learned_at` it
# has not been heard. What it accepts and then refuses by status: SOP Class UID -> when.
offers = Table(
    "offers",
    metadata,
    Column("destination", String, primary_key=True),
    Column("address", String, nullable=False),
    Column("accepted", StorableText, nullable=False),
    Column("learned_at", Double),
    Column("ask_at", Double, nullable=False),
    Column("refused", StorableText, nullable=False, server_default="{}"),
)

# Associations that stored something: whether their sender released them. Without `ended_at` one is open.
associations = Table(
    "associations",
    metadata,
    Column("id", String, primary_key=True),
    Column("calling_ae", String, nullable=False),
    Column("peer_host", String, nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("is_released", Integer),
    Index("ix_associations_sender", "calling_ae", "peer_host", "opened_at"),
    Index("ix_associations_ended_at", "ended_at"),
)

# How many studies a sender had begun here: earlier builds of 0.5.0 counted them, and nothing reads it.
senders = Table(
    "senders",
    metadata,
    Column("calling_ae", String, primary_key=True),
    Column("peer_host", String, primary_key=True),
    Column("studies", Integer, nullable=False),
)


class PauseKind(StrEnum):
    """Where in a study a sender paused.

    While an association stayed open; between two associations, in a series or between two; and before images
    for which the answer did not wait, with one of T1 and FLAIR there or with both.
    """

    ASSOCIATION_OPEN = "association_open"
    WITHIN_SERIES = "within_series"
    BETWEEN_SERIES = "between_series"
    TOO_LATE_FOR_ONE = "too_late_for_one"
    TOO_LATE_FOR_BOTH = "too_late_for_both"


class AnsweredWith(StrEnum):
    """From which of T1 and FLAIR a study is answered; a row of `pauses` too, as it tells of habits."""

    ONE = "answered_with_one"
    BOTH = "answered_with_both"


# For how long a sender paused between two images of one study, where that was noticeable; and what came of
# its studies.
pauses = Table(
    "pauses",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("calling_ae", String, nullable=False),
    Column("peer_host", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("pause_s", Double, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_pauses_sender", "calling_ae", "peer_host", "kind", "id"),
    Index("ix_pauses_at", "at"),
    sqlite_autoincrement=True,
)

# What is counted, and signs of life; see `dicomnode.ledger.figures`.
figures = Table(
    "figures",
    metadata,
    Column("name", String, primary_key=True),
    Column("label", String, primary_key=True),
    Column("value", Double, nullable=False),
)

# What became of each study; a row outlives its study, then without its UID. The index holds every column that
# statistics read.
answers = Table(
    "answers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("StudyInstanceUID", String),
    Column("received_at", Double, nullable=False),
    Column("answered_at", Double, nullable=False),
    Column("outcome", String, nullable=False),
    Column("code", String, nullable=False),
    Column("lesions_ml", Double),
    UniqueConstraint("StudyInstanceUID"),
    Index("ix_answers_received_at", "received_at", "answered_at", "outcome", "code", "lesions_ml"),
    Index("ix_answers_outcome", "outcome", "StudyInstanceUID"),
    sqlite_autoincrement=True,
)

# Who is to be told what; without `due_at` nothing is left to be sent.
notices = Table(
    "notices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", String, nullable=False),
    Column("target", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("noted_at", Double, nullable=False),
    Column("due_at", Double),
    Column("told_at", Double),
    Column("ended_at", Double),
    Column("attempts", Integer, nullable=False),
    Index("ix_notices_due_at", "due_at"),
    Index("ix_notices_channel_kind_subject", "channel", "kind", "subject"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("StudyInstanceUID", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("what", String, nullable=False),
    Column("detail", StorableText, nullable=False),
    Index("ix_events_StudyInstanceUID", "StudyInstanceUID"),
    sqlite_autoincrement=True,
)
