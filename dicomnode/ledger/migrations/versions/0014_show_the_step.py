"""Show the step that a study's computation is in, and since when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("jobs", sa.Column("step", sa.String()))
    op.add_column("jobs", sa.Column("step_since", sa.Double()))
