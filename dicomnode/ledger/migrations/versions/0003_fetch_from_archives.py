"""Fetch from archives: what is to be fetched, and what they list."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two tables."""
    op.create_table(
        "fetches",
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("StudyInstanceUID", "what", name=op.f("pk_fetches")),
    )
    op.create_table(
        "archive_counts",
        sa.Column("SeriesInstanceUID", sa.String(), nullable=False),
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("SeriesInstanceUID", name=op.f("pk_archive_counts")),
    )
    op.create_index(
        "ix_archive_counts_StudyInstanceUID", "archive_counts", ["StudyInstanceUID"], unique=False
    )
