"""How Alembic runs the migrations: in the transaction that `upgrade` hands over."""

from alembic import context

from sexton.store import schema
from sexton.store.upgrade import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
