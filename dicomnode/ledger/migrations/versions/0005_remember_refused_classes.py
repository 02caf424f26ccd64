"""Remember which SOP classes a destination accepts in the negotiation and then refuses by status."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("offers", sa.Column("refused", sa.Text(), nullable=False, server_default="{}"))
