"""Remember what destinations accept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "offers",
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("accepted", sa.Text(), nullable=False),
        sa.Column("learned_at", sa.Double(), nullable=True),
        sa.Column("ask_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_offers")),
    )
