"""The migrations make what the models say, and can be undone."""

import asyncio
<% if cookiecutter.database == "mysql" %>
import re
<% endif %>
from collections.abc import Iterator
from pathlib import Path
<% if cookiecutter.database == "mysql" %>
from typing import Any
<% endif %>

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
<% if cookiecutter.database == "mysql" %>
from alembic.util import CommandError, to_tuple
<% else %>
from alembic.util import to_tuple
<% endif %>
from sqlalchemy import (
    URL,
    Boolean,
    CheckConstraint,
    Column,
<% if cookiecutter.database == "postgresql" %>
    Date,
    Double,
<% else %>
    Engine,
<% endif %>
    Enum,
    ForeignKey,
    Integer,
    Interval,
    NullPool,
    String,
    Table,
<% if cookiecutter.database == "mysql" %>
    event,
<% endif %>
    text,
    true,
)
from sqlalchemy.exc import DBAPIError
<% if cookiecutter.database == "mysql" %>
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
<% else %>
from sqlalchemy.ext.asyncio import create_async_engine
<% endif %>
from sqlalchemy.types import UserDefinedType

from app.models.base import Base
from dev import database as databases
from migrations import lock
from tests.conftest import copied_migrations

# What migrations leave when all is undone.
<% if cookiecutter.database == "postgresql" %>
KEPT = {"alembic_version"}
<% else %>
KEPT = {"alembic_version", lock.TABLE}
<% endif %>


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


@pytest.fixture
def notes(empty: URL, tmp_path: Path) -> Iterator[Config]:
    """Return copied migrations of a database that is up to date, and declare one more table."""
    config = copied_migrations(tmp_path)
    command.upgrade(config, "head")
    table = Table(
        "_test_notes",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("content", String(20), server_default="none"),
    )
    yield config
    Base.metadata.remove(table)


def test_a_change_of_the_models_is_seen(notes: Config, empty: URL) -> None:
    command.revision(notes, "notes", autogenerate=True)
    command.upgrade(notes, "head")
    command.check(notes)
    statements = [
<% if cookiecutter.database == "postgresql" %>
        "ALTER TABLE _test_notes ALTER COLUMN content TYPE varchar(10)",
        "ALTER TABLE _test_notes ALTER COLUMN content DROP DEFAULT",
<% else %>
        "ALTER TABLE _test_notes MODIFY content varchar(10) NULL",
<% endif %>
    ]
    for statement in statements:
        asyncio.run(databases.execute(empty, statement))

    with pytest.raises(Exception, match="New upgrade operations detected") as drift:
        command.check(notes)

    assert "modify_type" in str(drift.value)
    assert "modify_default" in str(drift.value)


class Code(UserDefinedType[str]):
    """A type that SQLAlchemy has not."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return its name."""
        return "CHAR(3)"


def test_a_type_of_ones_own_is_imported(notes: Config, empty: URL) -> None:
    Base.metadata.tables["_test_notes"].append_column(Column("code", Code))
    command.revision(notes, "notes", autogenerate=True)
    command.upgrade(notes, "head")
    command.check(notes)


def test_a_colon_begins_no_parameter(notes: Config, empty: URL) -> None:
    def place(value: str) -> str:
        asyncio.run(databases.execute(empty, f"INSERT INTO _test_notes VALUES (1, '', {value})"))
        return asyncio.run(databases.execute(empty, "SELECT place FROM _test_notes"))

    table = Base.metadata.tables["_test_notes"]
    table.append_column(Column("place", String(20), server_default=text(r"' \:a'")))
    table.append_constraint(CheckConstraint(r"place <> ' \:b'", name="place"))
    command.revision(notes, "notes", autogenerate=True)
    command.upgrade(notes, "head")
    command.check(notes)
    revision = ScriptDirectory.from_config(notes).get_current_head()
    assert revision is not None
    with pytest.raises(DBAPIError):
        place(r"' \:b'")
    assert place("DEFAULT") == " :a"

    Base.metadata.remove(table)
    command.revision(notes, "no notes", autogenerate=True)
    command.upgrade(notes, "head")
    command.downgrade(notes, revision)
    with pytest.raises(DBAPIError):
        place(r"' \:b'")
    assert place("DEFAULT") == " :a"


<% if cookiecutter.database == "postgresql" %>
def test_a_revision_means_the_same_where_the_server_speaks_otherwise(
    notes: Config, empty: URL
) -> None:
    def speak(**parameters: str) -> None:
        for name, value in parameters.items():
            statement = f"ALTER DATABASE {empty.database} SET {name} = {value}"
            asyncio.run(databases.execute(empty, statement))

    speak(DateStyle="SQL, DMY", IntervalStyle="sql_standard")
    speak(extra_float_digits="-5", quote_all_identifiers="on")
    table = Base.metadata.tables["_test_notes"]
    table.append_column(Column("day", Date, server_default="2026-02-01"))
    table.append_column(Column("ratio", Double, server_default="0.1234567890123456"))
    table.append_column(Column("lasts", Interval, server_default="-1 day -02:00:00"))
    command.revision(notes, "notes", autogenerate=True)
    command.upgrade(notes, "head")
    command.check(notes)

    Base.metadata.remove(table)
    command.revision(notes, "no notes", autogenerate=True)
    command.upgrade(notes, "head")
    speak(DateStyle="SQL, MDY", IntervalStyle="postgres")
    command.downgrade(notes, "-1")
    asyncio.run(databases.execute(empty, "INSERT INTO _test_notes DEFAULT VALUES"))
    wanted = "day = '2026-02-01' AND ratio = 0.1234567890123456 AND lasts = '-26:00:00'"
    assert asyncio.run(databases.execute(empty, f"SELECT {wanted} FROM _test_notes")) == "True"


<% else %>
async def create_tables(url: URL) -> None:
    """Make the tables without migrations, as the server at hand would have them."""
    engine = create_async_engine(url, connect_args=lock.CONNECT)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


def test_texts_are_as_the_models_say(notes: Config, empty: URL) -> None:
    """Alembic compares neither character sets nor collations."""
    query = (
        "SELECT group_concat(concat_ws(' ', table_name, column_name, collation_name)"
        " ORDER BY table_name, column_name) FROM information_schema.columns"
        " WHERE table_schema = database() AND table_name <> 'alembic_version'"
    )
    command.revision(notes, "notes", autogenerate=True)
    command.upgrade(notes, "head")
    migrated = asyncio.run(databases.execute(empty, query))
    command.downgrade(notes, "base")
    asyncio.run(create_tables(empty))

    assert asyncio.run(databases.execute(empty, query)) == migrated
    assert "utf8mb4" in migrated


<% endif %>
def test_every_constraint_has_a_name() -> None:
    for table in Base.metadata.sorted_tables:
        assert None not in {constraint.name for constraint in table.constraints}


def test_one_head_and_names_that_sort_by_time(alembic: Config) -> None:
    scripts = ScriptDirectory.from_config(alembic)
    heads = scripts.get_heads()
    assert len(heads) <= 1, f'Join them: uv run alembic merge -m "merge" {" ".join(heads)}'

    for script in scripts.walk_revisions():
        for before in to_tuple(script.down_revision, default=()):
            assert Path(scripts.get_revision(before).path).name < Path(script.path).name


def test_offline_sql(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = copied_migrations(tmp_path)
    command.revision(config, "last")
    capsys.readouterr()
    command.upgrade(config, "head", sql=True)

    sql = capsys.readouterr().out
<% if cookiecutter.database == "postgresql" %>
    assert sql.index("set_config('lock_timeout', '10s', true)") < sql.index("alembic_version")
<% else %>
    assert sql.index("SET lock_wait_timeout = 10") < sql.index("alembic_version")
<% endif %>


<% if cookiecutter.database == "mysql" %>
def test_a_revision_changes_the_schema_once(
    alembic: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """A revision that fails can then be run again: nothing of it was done."""
    for script in ScriptDirectory.from_config(alembic).walk_revisions():
        # What joins two lines of revisions has no single one before it, and changes nothing.
        if script.is_merge_point:
            continue
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
    notes: Config, empty: URL
) -> None:
    done = ScriptDirectory.from_config(notes).get_current_head()
    command.revision(notes, "notes", autogenerate=True)
    asyncio.run(databases.execute(empty, "CREATE TABLE _test_notes (in_the_way int PRIMARY KEY)"))
    with pytest.raises(DBAPIError) as failed:
        command.upgrade(notes, "head")

    [note] = failed.value.__notes__
    assert f"stopped half-way, after revision {done}" in note

    asyncio.run(databases.execute(empty, "DROP TABLE _test_notes"))
    command.upgrade(notes, "head")
    command.check(notes)


<% endif %>
def declare_orders(*colors: str) -> list[Table]:
    """Declare tables with what needs care in a migration."""
    customers = Table("_test_customers", Base.metadata, Column("id", Integer, primary_key=True))
    orders = Table(
        "_test_orders",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("customer_id", ForeignKey("_test_customers.id"), index=True),
        Column("color", Enum(*colors, name="_test_color")),
        Column("is_open", Boolean, server_default=true()),
        Column("lasts", Interval),
        Column("number", Integer),
        CheckConstraint("number > 0", name="number"),
<% if cookiecutter.database == "postgresql" %>
        schema="_test_billing",
<% endif %>
    )
    return [orders, customers]


def test_autogenerate_writes_what_goes_up_and_down(empty: URL, tmp_path: Path) -> None:
    config = copied_migrations(tmp_path)
    command.upgrade(config, "head")
    for colors in ("red",), ("red", "green"), ("green",):
        declared = declare_orders(*colors)
        try:
            command.revision(config, "orders", autogenerate=True)
            command.upgrade(config, "head")
            command.check(config)
        finally:
            for table in declared:
                Base.metadata.remove(table)

    command.downgrade(config, "base")
    assert tables(empty) == KEPT
<% if cookiecutter.database == "postgresql" %>
    left = (
        "SELECT concat(to_regtype('_test_color'), to_regnamespace('_test_billing')) || count(*)"
        " FROM pg_type WHERE typname = '_test_color_old'"
    )
    assert asyncio.run(databases.execute(empty, left)) == "0"
<% endif %>
    command.upgrade(config, "head")


def test_a_table_goes_and_what_it_refers_to_stays(notes: Config, empty: URL) -> None:
    reference: Column[int] = Column("note_id", ForeignKey("_test_notes.id"), index=True)
    pages = Table("_test_pages", Base.metadata, Column("id", Integer, primary_key=True), reference)
    try:
        command.revision(notes, "pages", autogenerate=True)
        command.upgrade(notes, "head")
    finally:
        Base.metadata.remove(pages)
    command.revision(notes, "no pages", autogenerate=True)
    command.upgrade(notes, "head")

    command.check(notes)
    assert "_test_notes" in tables(empty)
    assert "_test_pages" not in tables(empty)


<% if cookiecutter.database == "mysql" %>
def test_a_schema_is_refused(alembic: Config, empty: URL) -> None:
    table = Table("_test_invoices", Base.metadata, schema="billing")
    try:
        with pytest.raises(CommandError, match=r"The table billing\._test_invoices has a schema"):
            command.upgrade(alembic, "head")
    finally:
        Base.metadata.remove(table)


@pytest.fixture(params=["autocommit = 1", "completion_type = 1, autocommit = 0"])
def settings_of_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have connections begin with settings as those of some servers, before any of ours."""

    def begin(_: object, __: object, ___: object, options: dict[str, Any]) -> None:
        own = options.get("init_command", "").removeprefix("SET ")
        options["init_command"] = "SET " + ", ".join(filter(None, [request.param, own]))

    event.listen(Engine, "do_connect", begin)
    yield
    event.remove(Engine, "do_connect", begin)


def migrating(url: URL) -> AsyncEngine:
    """Return an engine as migrations have it."""
    return create_async_engine(url, poolclass=NullPool, connect_args=lock.CONNECT)


@pytest.mark.usefixtures("settings_of_server")
def test_what_is_migrated_is_committed(alembic: Config, empty: URL) -> None:
    command.upgrade(alembic, "head")
    version = asyncio.run(databases.execute(empty, "SELECT version_num FROM alembic_version"))
    # Without any revision both are none.
    assert version == str(ScriptDirectory.from_config(alembic).get_current_head())
    assert asyncio.run(databases.execute(empty, f"SELECT count(*) FROM {lock.TABLE}")) == "0"
    command.downgrade(alembic, "base")
    assert tables(empty) == KEPT


@pytest.mark.usefixtures("settings_of_server")
<% endif %>
async def test_a_replica_waits_within_a_limit(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LOCK_LIMIT", 0)
<% if cookiecutter.database == "mysql" %>
    engine = migrating(empty)
<% else %>
    engine = create_async_engine(empty, poolclass=NullPool)
<% endif %>
    async with lock.held(engine):
        with pytest.raises(TimeoutError, match="Another process has been migrating for 0 s"):
            await asyncio.to_thread(command.upgrade, alembic, "head")

    await asyncio.to_thread(command.upgrade, alembic, "head")
<% if cookiecutter.database == "mysql" %>


@pytest.mark.usefixtures("settings_of_server")
async def test_a_lock_is_taken_from_the_dead(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "DEAD_AFTER", 1)
    monkeypatch.setattr(lock, "BEAT", 0.02)
    engine = migrating(empty)
    async with lock.held(engine):
        waiting = asyncio.create_task(asyncio.to_thread(command.upgrade, alembic, "head"))
        # Alive: it is waited for.
        done, _ = await asyncio.wait([waiting], timeout=2)
        assert not done
        assert not lock.lost.is_set()
        # Dead: a task that never ends, and whose number stands still.
        monkeypatch.setattr(lock, "RENEW", text("SELECT 1"))
        await waiting


@pytest.mark.usefixtures("settings_of_server")
async def test_who_has_lost_the_lock_does_not_go_on(
    alembic: Config, empty: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    engine = migrating(empty)
    async with lock.held(engine), engine.connect() as connection:
        await databases.execute(empty, f"UPDATE {lock.TABLE} SET owner = 'another'")
        assert await asyncio.to_thread(lock.lost.wait, 10)
        await connection.run_sync(lambda sync: event.listen(sync, "begin", lock.refuse_if_lost))
        with pytest.raises(RuntimeError, match="another one has taken its lock"):
            await connection.execute(text("SELECT 1"))
    await databases.execute(empty, lock.RELEASE.text.replace(":owner", "'another'"))
<% endif %>
