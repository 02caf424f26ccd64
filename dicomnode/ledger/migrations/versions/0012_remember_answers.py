"""Remember each study's answer in a narrow row, so that statistics read no report.

The answers that there are move in.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ROWS_AT_ONCE = 500
_ANSWERED = sa.text(
    'SELECT studies."StudyInstanceUID", studies.last_received_at, '
    "jobs.updated_at, jobs.outcome, jobs.detail, "
    "(SELECT min(results.created_at) FROM results WHERE results.job_id = jobs.id) AS made_at "
    'FROM jobs JOIN studies ON studies."StudyInstanceUID" = jobs."StudyInstanceUID" '
    "WHERE jobs.outcome IS NOT NULL AND jobs.state <> 'superseded'"
)


def upgrade() -> None:
    """Add the table and fill it."""
    answers = op.create_table(
        "answers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("StudyInstanceUID", sa.String()),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("answered_at", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("lesions_ml", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answers")),
        sa.UniqueConstraint("StudyInstanceUID", name=op.f("uq_answers_StudyInstanceUID")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_answers_received_at",
        "answers",
        ["received_at", "answered_at", "outcome", "code", "lesions_ml"],
    )
    op.create_index("ix_answers_outcome", "answers", ["outcome", "StudyInstanceUID"])
    connection = op.get_bind()
    answered = connection.execute(_ANSWERED)
    while rows := answered.fetchmany(_ROWS_AT_ONCE):
        op.bulk_insert(answers, [_answer(row) for row in rows])


def _answer(row: Any) -> dict[str, Any]:
    """Return what version 0.5 would have written when it answered."""
    detail = json.loads(row.detail)
    is_measured = row.outcome in ("lesions", "negative")
    volumes_ml = [float(lesion["volume_ml"]) for lesion in detail.get("lesions", ())]
    return {
        "StudyInstanceUID": row.StudyInstanceUID,
        "received_at": row.last_received_at,
        "answered_at": row.made_at if row.made_at is not None else row.updated_at,
        "outcome": row.outcome,
        "code": str(detail.get("code", "")),
        "lesions_ml": sum(volumes_ml) if is_measured else None,
    }
