"""Alembic's entry: runs the steps in the transaction of a connection that is handed over.

`dicomnode.ledger.migrate` hands it over.
"""

from alembic import context

from dicomnode.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
context.run_migrations()
