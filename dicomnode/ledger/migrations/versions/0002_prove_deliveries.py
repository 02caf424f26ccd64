"""Prove deliveries: when to ask after what was sent, and storage commitment both ways."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what proof after sending needs; what was sent before it counts as it did then."""
    # One by one and not in a batch: SQLite adds these to a table of any size at once, a batch would copy it.
    op.add_column("deliveries", sa.Column("sent_at", sa.Double(), nullable=True))
    op.add_column("deliveries", sa.Column("confirm_at", sa.Double(), nullable=True))
    op.add_column("deliveries", sa.Column("confirm_tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("resends", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("TransactionUID", sa.String(), nullable=True))
    op.create_index("ix_deliveries_TransactionUID", "deliveries", ["TransactionUID"], unique=False)
    op.create_table(
        "transactions",
        sa.Column("TransactionUID", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("reported_at", sa.Double(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("TransactionUID", name=op.f("pk_transactions")),
    )
    op.create_table(
        "commitment_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("peer_host", sa.String(), nullable=False),
        sa.Column("TransactionUID", sa.String(), nullable=False),
        sa.Column("asked_for", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_requests")),
        sa.UniqueConstraint(
            "calling_ae", "TransactionUID", name=op.f("uq_commitment_requests_calling_ae_TransactionUID")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_commitment_requests_due_at", "commitment_requests", ["due_at"], unique=False)
