"""Find rows among a million: indexes for starting, retention and `status`.

When an archive was last asked gets a table of its own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes and the table, and move the rows there that stood for no series."""
    op.create_index("ix_instances_path", "instances", ["path"])
    op.create_index("ix_deliveries_StudyInstanceUID", "deliveries", ["StudyInstanceUID"])
    for name, column, condition in (
        ("ix_instances_not_indexed", "reading", "reading != 'indexed'"),
        ("ix_instances_versions", "arrival", "arrival > 0"),
    ):
        condition_clause = sa.text(condition)
        op.create_index(
            name, "instances", [column], sqlite_where=condition_clause, postgresql_where=condition_clause
        )
    op.create_table(
        "archive_askings",
        sa.Column("StudyInstanceUID", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("StudyInstanceUID", name=op.f("pk_archive_askings")),
    )
    counts = sa.table(
        "archive_counts", sa.column("SeriesInstanceUID"), sa.column("StudyInstanceUID"), sa.column("asked_at")
    )
    askings = sa.table("archive_askings", sa.column("StudyInstanceUID"), sa.column("asked_at"))
    newest = sa.select(counts.c.StudyInstanceUID, sa.func.max(counts.c.asked_at)).group_by(
        counts.c.StudyInstanceUID
    )
    op.execute(sa.insert(askings).from_select(["StudyInstanceUID", "asked_at"], newest))
    op.execute(sa.delete(counts).where(counts.c.SeriesInstanceUID == counts.c.StudyInstanceUID))
