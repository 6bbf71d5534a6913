"""Runs the migrations, for one process at a time."""

import asyncio
import logging
import time
from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
<% if cookiecutter.database == "mysql" %>
from alembic.runtime.migration import MigrationContext
<% endif %>
<% if cookiecutter.vector_search == "yes" %>
from pgvector.sqlalchemy import VECTOR
<% endif %>
from sqlalchemy import Connection, NullPool, TypeDecorator, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.config import load_settings
from app.models import Base

# Seconds a replica that starts waits for another one that migrates.
LOCK_LIMIT = 300

# Seconds a migration waits for a table that is in use. The requests that come after it wait
# behind it: better to give up and try again than to halt the service.
TABLE_LOCK_LIMIT = 10

<% if cookiecutter.database == "postgresql" %>
TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtext('alembic'))")
UNLOCK = text("SELECT pg_advisory_unlock(hashtext('alembic'))")
<% else %>
# Names of locks are the server's, so that each database has its own.
TRY_LOCK = text("SELECT GET_LOCK(CONCAT('alembic ', DATABASE()), 0)")
UNLOCK = text("SELECT RELEASE_LOCK(CONCAT('alembic ', DATABASE()))")
<% endif %>


def render_item(kind: str, item: object, autogen: AutogenContext) -> str | Literal[False]:
    """Write a type of our own as the column type that it is: models change, migrations do not."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return _repr_type(item.impl_instance, autogen)
<% if cookiecutter.vector_search == "yes" %>
    if kind == "type" and isinstance(item, VECTOR):
        autogen.imports.add("from pgvector.sqlalchemy import VECTOR")
        return f"VECTOR({item.dim})"
<% endif %>
    return False


def configure(**target: object) -> None:
    """Tell Alembic what to compare and where to."""
    context.configure(
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        render_item=render_item,
        **target,  # type: ignore[arg-type]
    )


def migrate(connection: Connection) -> None:
    """Run what was asked for on the command line."""
<% if cookiecutter.database == "postgresql" %>
    connection.execute(text(f"SET lock_timeout = '{TABLE_LOCK_LIMIT}s'"))
<% else %>
    connection.execute(text(f"SET lock_wait_timeout = {TABLE_LOCK_LIMIT}"))
<% endif %>
    connection.commit()
    configure(connection=connection)
<% if cookiecutter.database == "postgresql" %>
    with context.begin_transaction():
        context.run_migrations()
<% else %>
    try:
        with context.begin_transaction():
            context.run_migrations()
    except Exception as error:
        # There is no transaction around a change of the schema: what was done stays done.
        done = MigrationContext.configure(connection).get_current_revision()
        error.add_note(
            f"The migration stopped half-way, after revision {done}. What the next revision did"
            " before it failed stays. Undo that by hand, mend the revision, and upgrade again:"
            " what is recorded as done is not done twice."
        )
        raise
<% endif %>


async def migrate_alone() -> None:
    """Take the lock, migrate, give it back.

    Raises TimeoutError when another process holds the lock for longer than `LOCK_LIMIT`.
    """
    # Its own engine: the service's limits on statements are too short for a migration.
    engine = create_async_engine(load_settings().database_url, poolclass=NullPool)
    # The lock has its own connection: taken on the one that migrates, it would look to Alembic
    # like a transaction of ours, and nothing would be committed.
    async with engine.connect() as lock_connection:
        lock = await lock_connection.execution_options(isolation_level="AUTOCOMMIT")
        deadline = time.monotonic() + LOCK_LIMIT
        while not await lock.scalar(TRY_LOCK):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Another process has been migrating for {LOCK_LIMIT} s")
            await asyncio.sleep(0.2)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(migrate)
        finally:
            await lock.execute(UNLOCK)
    await engine.dispose()


if context.config.cmd_opts is not None:
    # On the command line: say what is done.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.INFO)

if context.is_offline_mode():
    configure(
        url=load_settings().database_url, literal_binds=True, dialect_opts={"paramstyle": "named"}
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(migrate_alone())
