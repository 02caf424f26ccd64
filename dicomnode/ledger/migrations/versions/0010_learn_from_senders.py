"""Learn from senders: when their associations ended, and how long they pause within a study.

And indexes for what is looked for every few seconds.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the three tables and the indexes."""
    for table, column in (
        ("fetches", "due_at"),
        ("archive_counts", "asked_at"),
        ("archive_askings", "asked_at"),
        ("deliveries", "lease_until"),
        ("deliveries", "first_failed_at"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column])
    op.create_table(
        "associations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("peer_host", sa.String(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double()),
        sa.Column("is_released", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_associations")),
    )
    op.create_index(
        "ix_associations_sender", "associations", ["calling_ae", "peer_host", "opened_at"], unique=False
    )
    op.create_index("ix_associations_ended_at", "associations", ["ended_at"])
    op.create_table(
        "senders",
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("peer_host", sa.String(), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("calling_ae", "peer_host", name=op.f("pk_senders")),
    )
    op.create_table(
        "pauses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("peer_host", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("pause_s", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pauses")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_pauses_sender", "pauses", ["calling_ae", "peer_host", "kind", "id"])
    op.create_index("ix_pauses_at", "pauses", ["at"])
