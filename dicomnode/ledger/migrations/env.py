"""Alembic's entry: runs the steps in the transaction of the connection that `dicomnode.ledger.migrate` hands over."""

from alembic import context

from dicomnode.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
context.run_migrations()
