"""Lay the first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lay the first tables."""
    _create_studies()
    _create_instances()
    _create_jobs()
    _create_results()
    _create_deliveries()
    _create_events()


def _create_studies() -> None:
    op.create_table(
        "studies",
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("first_received_at", sa.Double(), nullable=False),
        sa.Column("last_received_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("StudyInstanceUID", name=op.f("pk_studies")),
    )


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("SOPInstanceUID", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("arrival", sa.Integer(), nullable=False),
        sa.Column("SOPClassUID", sa.String(), nullable=False),
        sa.Column("TransferSyntaxUID", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("peer_host", sa.String(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("reading", sa.String(), nullable=False),
        sa.Column("StudyInstanceUID", sa.String(), nullable=True),
        sa.Column("SeriesInstanceUID", sa.String(), nullable=True),
        sa.Column("header", sa.Text(), nullable=True),
        sa.Column("unreadable_because", sa.Text(), nullable=True),
        sa.Column("indexed_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["StudyInstanceUID"], ["studies.StudyInstanceUID"], name=op.f("fk_instances_StudyInstanceUID")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        sa.UniqueConstraint("SOPInstanceUID", "arrival", name=op.f("uq_instances_SOPInstanceUID_arrival")),
        sa.UniqueConstraint("SOPInstanceUID", "sha256", name=op.f("uq_instances_SOPInstanceUID_sha256")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_instances_StudyInstanceUID", "instances", ["StudyInstanceUID"], unique=False)
    op.create_index(
        "ix_instances_unread",
        "instances",
        ["id"],
        unique=False,
        sqlite_where=sa.text("reading = 'new'"),
        postgresql_where=sa.text("reading = 'new'"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["StudyInstanceUID"], ["studies.StudyInstanceUID"], name=op.f("fk_jobs_StudyInstanceUID")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("StudyInstanceUID", "revision", name=op.f("uq_jobs_StudyInstanceUID_revision")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_state_not_before", "jobs", ["state", "not_before"], unique=False)


def _create_results() -> None:
    op.create_table(
        "results",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("SOPInstanceUID", sa.String(), nullable=False),
        sa.Column("SOPClassUID", sa.String(), nullable=False),
        sa.Column("SeriesInstanceUID", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_results_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_results")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_results_SOPInstanceUID", "results", ["SOPInstanceUID"], unique=False)
    op.create_index("ix_results_job_id", "results", ["job_id"], unique=False)


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.Double(), nullable=False),
        sa.Column("first_failed_at", sa.Double(), nullable=True),
        sa.Column("last_status", sa.Text(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id")),
        sa.ForeignKeyConstraint(["result_id"], ["results.id"], name=op.f("fk_deliveries_result_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("result_id", "destination", name=op.f("uq_deliveries_result_id_destination")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"], unique=False)
    op.create_index(
        "ix_deliveries_state_destination_next_attempt_at",
        "deliveries",
        ["state", "destination", "next_attempt_at"],
        unique=False,
    )


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_StudyInstanceUID", "events", ["StudyInstanceUID"], unique=False)
