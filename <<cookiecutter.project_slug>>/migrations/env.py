"""Runs the migrations, for one process at a time."""

import asyncio
import logging
from typing import Any

from alembic import context
<% if cookiecutter.database == "mysql" %>
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
<% endif %>
from sqlalchemy import Connection, NullPool, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.config import load_settings
from app.models import Base
from migrations import autogenerate, comparison, lock
<% if cookiecutter.database == "postgresql" %>
from migrations.sql import full_name
<% endif %>

settings = load_settings()
URL = settings.migration_database_url or settings.database_url

# Seconds a migration waits for a table that is in use. The requests that come after it wait
# behind it: better to give up and try again than to halt the service.
TABLE_LOCK_LIMIT = 10

<% if cookiecutter.database == "postgresql" %>
# For one transaction each, so that nothing stays on a connection that a pooler hands on. The role
# may have limits on statements, which are meant for requests, and forms of its own for what the
# server says of a schema: a revision has to mean the same elsewhere.
PARAMETERS = {
    "lock_timeout": f"{TABLE_LOCK_LIMIT}s",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "quote_all_identifiers": "off",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
}
SET_UP = text(
    "SELECT "
    + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in PARAMETERS.items())
)


def begin(connection: Connection) -> None:
    """Set what a transaction needs. What runs in an `autocommit_block` has none of it."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.execute(SET_UP)


# Partitions, and what belongs to an extension.
OF_OTHERS = text("""
    SELECT relispartition OR EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = oid AND deptype = 'e'
    )
    FROM pg_class WHERE oid = CAST(CAST(:table AS text) AS regclass)
""")


def is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Return whether a schema or a table is compared.

    Schemas that no model names are left alone, and such tables that others make and drop.
    """
    if kind == "schema":
        return name in autogenerate.schemas_of(Base.metadata)
    if kind != "table" or parents["schema_qualified_table_name"] in Base.metadata.tables:
        return True
    table = full_name(parents["schema_name"], str(name))
    return not context.get_bind().scalar(OF_OTHERS, {"table": table})
<% else %>
SET_UP = text(f"SET lock_wait_timeout = {TABLE_LOCK_LIMIT}")


def is_ours(name: str | None, kind: str, parents: Any) -> bool:
    """Return whether a table or a column is compared.

    No model's are the table of the lock, and the key that MySQL may give a table without one:
    https://dev.mysql.com/doc/refman/en/create-table-gipks.html
    """
    if kind == "column" and name == "my_row_id":
        return name in Base.metadata.tables[parents["table_name"]].columns
    return kind != "table" or name != lock.TABLE
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
    autogenerate.break_circles(Base.metadata)
    context.configure(
        target_metadata=Base.metadata,
        autogenerate_plugins=comparison.PLUGINS,
        compare_server_default=True,
        render_item=autogenerate.render_item,
        process_revision_directives=autogenerate.arrange,
<% if cookiecutter.database == "postgresql" %>
        include_schemas=True,
<% endif %>
        include_name=is_ours,
        **target,  # type: ignore[arg-type]
    )


def migrate(connection: Connection) -> None:
    """Run what was asked for on the command line."""
<% if cookiecutter.database == "postgresql" %>
    event.listen(connection, "begin", begin)
    configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
<% else %>
    connection.execute(SET_UP)
    connection.commit()
    event.listen(connection, "begin", lock.refuse_if_lost)
    configure(connection=connection)
    try:
        with context.begin_transaction():
            context.run_migrations()
    except Exception as error:
        # There is no transaction around a change of the schema: what was done stays done.
        done = " and ".join(MigrationContext.configure(connection).get_current_heads())
        error.add_note(
            f"The migration stopped half-way, after revision {done or None}. What the next revision"
            " did before it failed stays. Undo that by hand, mend the revision, and upgrade again:"
            " what is recorded as done is not done twice."
        )
        raise
<% endif %>


async def migrate_alone() -> None:
    """Take the lock, migrate, give it back. Raises TimeoutError when another process keeps it."""
    # Its own engine: the service's limits on statements are too short for a migration.
<% if cookiecutter.database == "postgresql" %>
    own_limits = {"server_settings": {"statement_timeout": "0"}}
    engine = create_async_engine(URL, poolclass=NullPool, connect_args=own_limits)
<% else %>
    engine = create_async_engine(URL, poolclass=NullPool, connect_args=lock.CONNECT)
<% endif %>
    async with lock.held(engine), engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


if context.config.cmd_opts is not None:
    # On the command line: say what is done.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.INFO)

if context.is_offline_mode():
    configure(url=URL, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.execute(SET_UP)
        context.run_migrations()
else:
    asyncio.run(migrate_alone())
