"""Alembic's steps from one shape of the ledger to the next. A published step is never edited."""
