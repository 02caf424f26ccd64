"""List studies by the time of their last image: an index, so that a page of 100,000 studies stays quick."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_studies_last_received_at", "studies", ["last_received_at", "StudyInstanceUID"])
