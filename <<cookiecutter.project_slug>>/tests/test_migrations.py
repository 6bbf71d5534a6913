"""The migrations make what the models say, and can be undone."""

import asyncio
import os
<% if cookiecutter.database == "mysql" %>
import re
<% endif %>
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
<% if cookiecutter.database == "mysql" %>
from alembic.util import CommandError
<% endif %>
<% if cookiecutter.vector_search == "yes" %>
from pgvector.sqlalchemy import VECTOR
<% endif %>
from sqlalchemy import (
    URL,
    Boolean,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
<% if cookiecutter.vector_search == "yes" %>
    Index,
<% endif %>
    Integer,
    Interval,
    NullPool,
    Table,
<% if cookiecutter.database == "mysql" %>
    event,
<% endif %>
    make_url,
<% if cookiecutter.vector_search == "yes" or cookiecutter.database == "mysql" %>
    text,
<% endif %>
    true,
)
<% if cookiecutter.vector_search == "yes" or cookiecutter.database == "mysql" %>
from sqlalchemy.exc import DBAPIError
<% endif %>
from sqlalchemy.ext.asyncio import create_async_engine

from app.models import Base
from dev import database as databases
from migrations import lock
from tests.process import PROJECT

# What migrations leave when all is undone.
<% if cookiecutter.database == "postgresql" %>
KEPT = {"alembic_version"}
<% else %>
KEPT = {"alembic_version", lock.TABLE}
<% endif %>


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, database_url: URL) -> Iterator[URL]:
    """Return an empty database beside the one of the other tests."""
    server = make_url(os.environ["TEST_DATABASE_URL"])
    name = f"{database_url.database}_empty"
    url = databases.create_database(server, name)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    yield url
    databases.drop_database(server, name)


def tables(url: URL) -> set[str]:
    """Return the names of a database's tables."""
<% if cookiecutter.database == "postgresql" %>
    query = (
        "SELECT string_agg(concat_ws('.', nullif(schemaname, 'public'), tablename), ' ')"
        " FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
<% else %>
    query = (
        "SELECT group_concat(table_name SEPARATOR ' ') FROM information_schema.tables"
        " WHERE table_schema = database()"
    )
<% endif %>
    return set(asyncio.run(databases.execute(url, query)).split())


def test_up_down_to_nothing_and_up_again(alembic: Config, empty: URL) -> None:
    command.upgrade(alembic, "head")
    assert tables(empty) == {*KEPT, *Base.metadata.tables}

    command.downgrade(alembic, "base")
    assert tables(empty) == KEPT

    command.upgrade(alembic, "head")
    assert tables(empty) == {*KEPT, *Base.metadata.tables}
    # Raises when the schema is not what the models say.
    command.check(alembic)


def test_migrations_may_have_a_url_of_their_own(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATION_DATABASE_URL", empty.render_as_string(hide_password=False))
    nowhere = empty.set(database="nowhere").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", nowhere)

    command.upgrade(alembic, "head")

    assert tables(empty) == {*KEPT, *Base.metadata.tables}


def test_a_change_of_the_models_is_seen(alembic: Config, empty: URL) -> None:
    command.upgrade(alembic, "head")
    statements = [
<% if cookiecutter.database == "postgresql" %>
        "ALTER TABLE users ALTER COLUMN full_name TYPE varchar(100)",
        "ALTER TABLE users ALTER COLUMN created_at DROP DEFAULT",
<% else %>
        "ALTER TABLE users MODIFY full_name varchar(100) NULL",
        "ALTER TABLE users MODIFY created_at datetime(6) NOT NULL",
<% endif %>
    ]
    for statement in statements:
        asyncio.run(databases.execute(empty, statement))

    with pytest.raises(Exception, match="New upgrade operations detected") as drift:
        command.check(alembic)

    assert "modify_type" in str(drift.value)
    assert "modify_default" in str(drift.value)


<% if cookiecutter.database == "mysql" %>
async def create_tables(url: URL) -> None:
    """Make the tables without migrations, as the server at hand would have them."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


def test_texts_are_as_the_models_say(alembic: Config, empty: URL) -> None:
    """Alembic compares neither character sets nor collations."""
    query = (
        "SELECT group_concat(concat_ws(' ', table_name, column_name, collation_name)"
        " ORDER BY table_name, column_name) FROM information_schema.columns"
        " WHERE table_schema = database() AND table_name <> 'alembic_version'"
    )
    command.upgrade(alembic, "head")
    migrated = asyncio.run(databases.execute(empty, query))
    command.downgrade(alembic, "base")
    asyncio.run(create_tables(empty))

    assert asyncio.run(databases.execute(empty, query)) == migrated
    assert "utf8mb4" in migrated


<% endif %>
def test_every_constraint_has_a_name() -> None:
    for table in Base.metadata.sorted_tables:
        assert None not in {constraint.name for constraint in table.constraints}


def test_one_head_and_names_that_sort_by_time(alembic: Config) -> None:
    scripts = ScriptDirectory.from_config(alembic)
    newest_first = [Path(script.path).name for script in scripts.walk_revisions()]

    assert len(scripts.get_heads()) == 1
    assert newest_first == sorted(newest_first, reverse=True)


def test_offline_sql(alembic: Config, capsys: pytest.CaptureFixture[str]) -> None:
    command.upgrade(alembic, "head", sql=True)

    sql = capsys.readouterr().out
<% if cookiecutter.database == "postgresql" %>
    assert sql.index("set_config('lock_timeout', '10s', true)") < sql.index("CREATE TABLE users")
<% else %>
    assert sql.index("SET lock_wait_timeout = 10") < sql.index("CREATE TABLE users")
<% endif %>


<% if cookiecutter.database == "mysql" %>
def test_a_revision_changes_the_schema_once(
    alembic: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """A revision that fails can then be run again: nothing of it was done."""
    for script in ScriptDirectory.from_config(alembic).walk_revisions():
        before = script.down_revision or "base"
        command.upgrade(alembic, f"{before}:{script.revision}", sql=True)
        statements = capsys.readouterr().out.split(";")
        changes = [
            statement
            for statement in statements
            if re.search(r"^(CREATE|ALTER|DROP) ", statement, re.MULTILINE)
            and "alembic_version" not in statement
        ]
        assert len(changes) <= 1, f"{script.path}: make a revision of each:\n{changes}"


def test_a_migration_that_fails_says_what_is_done_and_can_be_run_again(
    alembic: Config, empty: URL
) -> None:
    asyncio.run(databases.execute(empty, "CREATE TABLE users (in_the_way int)"))
    with pytest.raises(DBAPIError) as failed:
        command.upgrade(alembic, "head")

    [note] = failed.value.__notes__
    assert "stopped half-way, after revision None" in note

    asyncio.run(databases.execute(empty, "DROP TABLE users"))
    command.upgrade(alembic, "head")
    command.check(alembic)


<% endif %>
def copied_migrations(folder: Path) -> Config:
    """Copy the migrations, to change them; return the copy's configuration."""
    shutil.copytree(PROJECT / "migrations", folder, dirs_exist_ok=True)
    config = Config()
    config.set_main_option("script_location", str(folder))
    return config


def declare_orders(*colors: str) -> Table:
    """Declare a table with what needs care in a migration."""
    return Table(
        "orders",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("user_id", ForeignKey("users.id"), index=True),
        Column("color", Enum(*colors, name="color")),
        Column("is_open", Boolean, server_default=true()),
        Column("lasts", Interval),
        Column("number", Integer),
        CheckConstraint("number > 0", name="number"),
<% if cookiecutter.database == "postgresql" %>
        schema="billing",
<% endif %>
    )


def test_autogenerate_writes_what_goes_up_and_down(empty: URL, tmp_path: Path) -> None:
    config = copied_migrations(tmp_path)
    command.upgrade(config, "head")
    for colors in ("red",), ("red", "green"), ("green",):
        orders = declare_orders(*colors)
        try:
            command.revision(config, "orders", autogenerate=True)
            command.upgrade(config, "head")
            command.check(config)
        finally:
            Base.metadata.remove(orders)

    command.downgrade(config, "base")
    assert tables(empty) == KEPT
<% if cookiecutter.database == "postgresql" %>
    left = (
        "SELECT concat(to_regtype('color'), to_regnamespace('billing')) || count(*)"
        " FROM pg_type WHERE typname = 'color_old'"
    )
    assert asyncio.run(databases.execute(empty, left)) == "0"
<% endif %>
    command.upgrade(config, "head")


<% if cookiecutter.database == "mysql" %>
def test_a_schema_is_refused(alembic: Config, empty: URL) -> None:
    table = Table("invoices", Base.metadata, schema="billing")
    try:
        with pytest.raises(CommandError, match=r"The table billing\.invoices has a schema"):
            command.upgrade(alembic, "head")
    finally:
        Base.metadata.remove(table)


<% endif %>
async def test_a_replica_waits_within_a_limit(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOCK_LIMIT", 0)
    engine = create_async_engine(empty, poolclass=NullPool)
    async with lock.held(engine):
        with pytest.raises(TimeoutError, match="Another process has been migrating for 0 s"):
            await asyncio.to_thread(command.upgrade, alembic, "head")

    await asyncio.to_thread(command.upgrade, alembic, "head")
<% if cookiecutter.database == "mysql" %>


async def test_a_lock_is_taken_from_the_dead(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "DEAD_AFTER", 0.3)
    monkeypatch.setattr(lock, "BEAT", 0.02)
    engine = create_async_engine(empty, poolclass=NullPool)
    async with lock.held(engine):
        waiting = asyncio.create_task(asyncio.to_thread(command.upgrade, alembic, "head"))
        # Alive: it is waited for.
        await asyncio.sleep(1)
        assert not waiting.done()
        assert not lock.lost.is_set()

        async def say_nothing(*_: object) -> bool:
            return True

        # As good as dead.
        monkeypatch.setattr(lock, "renew", say_nothing)
        await waiting


async def test_who_has_lost_the_lock_does_not_go_on(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    engine = create_async_engine(empty, poolclass=NullPool)
    async with lock.held(engine), engine.connect() as connection:
        await databases.execute(empty, f"UPDATE {lock.TABLE} SET owner = 'another'")
        assert await asyncio.to_thread(lock.lost.wait, 10)
        await connection.run_sync(lambda sync: event.listen(sync, "begin", lock.refuse_if_lost))
        with pytest.raises(RuntimeError, match="another one has taken its lock"):
            await connection.execute(text("SELECT 1"))
    await databases.execute(empty, lock.RELEASE.text.replace(":owner", "'another'"))
<% endif %>
<% if cookiecutter.vector_search == "yes" %>


def test_autogenerate_writes_vectors_and_their_indexes(empty: URL, tmp_path: Path) -> None:
    config = copied_migrations(tmp_path)
    command.upgrade(config, "head")
    pictures = Table(
        "pictures",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("embedding", VECTOR(3), nullable=False),
        Index(
            "ix_pictures_embedding",
            "embedding",
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_l2_ops"},
        ),
    )
    try:
        command.revision(config, "add pictures", autogenerate=True)
        command.upgrade(config, "head")
        command.check(config)
    finally:
        Base.metadata.remove(pictures)
    index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_pictures_embedding'"
    assert "USING hnsw (embedding vector_l2_ops)" in asyncio.run(databases.execute(empty, index))


LAST_REVISION = """
from alembic import op

revision, down_revision = "1a57", "c7e4905b3f18"


def upgrade() -> None:
    op.execute("CREATE TABLE limits AS SELECT current_setting('lock_timeout') AS lock_timeout")
"""


async def test_an_index_is_built_beside_writers_and_again_after_an_interruption(
    empty: URL, tmp_path: Path
) -> None:
    config = copied_migrations(tmp_path)
    # So short a limit for table locks ends any wait for a transaction.
    env = tmp_path / "env.py"
    env.write_text(env.read_text().replace("TABLE_LOCK_LIMIT = 10\n", "TABLE_LOCK_LIMIT = 0.001\n"))
    (tmp_path / "versions" / "last.py").write_text(LAST_REVISION)
    write = (
        "INSERT INTO documents (content, embedding)"
        " SELECT 'x', array_fill(1, ARRAY[atttypmod])::vector FROM pg_attribute"
        " WHERE attrelid = 'documents'::regclass AND attname = 'embedding'"
    )
    build = (
        "SELECT pid FROM pg_stat_progress_create_index"
        " WHERE datname = current_database() AND phase LIKE 'waiting for writers %'"
    )
    is_valid = (
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_documents_embedding'::regclass"
    )

    await asyncio.to_thread(command.upgrade, config, "8a63c1d20e5f")
    engine = create_async_engine(empty)
    async with engine.connect() as writer:
        await writer.execute(text(write))
        upgrade = asyncio.create_task(asyncio.to_thread(command.upgrade, config, "1a57"))
        async with asyncio.timeout(10):
            while (pid := await databases.execute(empty, build)) == "None":
                assert not upgrade.done()
            # The build waits for the first writer; another one does not wait for the build.
            await databases.execute(empty, write)
        await databases.execute(empty, f"SELECT pg_cancel_backend({pid})")
        with pytest.raises(DBAPIError, match="canceling statement due to user request"):
            await upgrade
        assert await databases.execute(empty, is_valid) == "False"
        await writer.commit()
    await engine.dispose()

    await asyncio.to_thread(command.upgrade, config, "1a57")
    assert await databases.execute(empty, is_valid) == "True"
    # The limit holds again for the revisions that follow.
    assert await databases.execute(empty, "SELECT lock_timeout FROM limits") == "1ms"
<% endif %>
