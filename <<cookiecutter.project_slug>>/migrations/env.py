"""Runs the migrations, for one process at a time."""

import asyncio
import logging
import time

from alembic import context
<% if cookiecutter.database == "mysql" %>
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
<% endif %>
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.config import load_settings
from app.models import Base
from migrations import autogenerate

settings = load_settings()
URL = settings.migration_database_url or settings.database_url

# Seconds a replica that starts waits for another one that migrates.
LOCK_LIMIT = 300

# Seconds a migration waits for a table that is in use. The requests that come after it wait
# behind it: better to give up and try again than to halt the service.
TABLE_LOCK_LIMIT = 10

<% if cookiecutter.database == "postgresql" %>
TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtext('alembic'))")
UNLOCK = text("SELECT pg_advisory_unlock(hashtext('alembic'))")
LIMIT_TABLE_LOCKS = text(f"SET lock_timeout = '{TABLE_LOCK_LIMIT}s'")
<% else %>
# Names of locks are the server's, so that each database has its own.
TRY_LOCK = text("SELECT GET_LOCK(CONCAT('alembic ', DATABASE()), 0)")
UNLOCK = text("SELECT RELEASE_LOCK(CONCAT('alembic ', DATABASE()))")
LIMIT_TABLE_LOCKS = text(f"SET lock_wait_timeout = {TABLE_LOCK_LIMIT}")
<% endif %>


<% if cookiecutter.database == "postgresql" %>
def is_ours(name: str | None, kind: str, _: object) -> bool:
    """Return whether a schema is compared: those that no model names are left alone."""
    return kind != "schema" or name in autogenerate.schemas_of(Base.metadata)


<% endif %>
def configure(**target: object) -> None:
    """Tell Alembic what to compare and where to."""
<% if cookiecutter.database == "mysql" %>
    for table in Base.metadata.tables.values():
        if table.schema is not None:
            raise CommandError(
                f"The table {table} has a schema. In MySQL that is another database, which tests"
                " would share with production: leave it out, or put it into the table's name"
            )
<% endif %>
    context.configure(
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        render_item=autogenerate.render_item,
        process_revision_directives=autogenerate.arrange,
<% if cookiecutter.database == "postgresql" %>
        include_schemas=True,
        include_name=is_ours,
<% endif %>
        **target,  # type: ignore[arg-type]
    )


def migrate(connection: Connection) -> None:
    """Run what was asked for on the command line."""
    connection.execute(LIMIT_TABLE_LOCKS)
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
    engine = create_async_engine(URL, poolclass=NullPool)
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
    configure(url=URL, literal_binds=True, dialect_opts={"paramstyle": "named"})
    context.execute(LIMIT_TABLE_LOCKS)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(migrate_alone())
