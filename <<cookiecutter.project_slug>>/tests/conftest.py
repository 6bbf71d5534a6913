"""A real database for every test.

Most tests run in a transaction that is rolled back: `client` and `session`. Those that need real
commits use `committing_client`, and those that need a process `server`.
"""

import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic.config import Config
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import URL, delete, make_url, select
<% else %>
from sqlalchemy import URL, delete, make_url, text
<% endif %>
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

from app.api.middleware import LastResort
from app.core.db import Database
from app.core.driver import Connection
from app.core.queries import Queries
from app.core.statements import Statement
from app.models import Base
from dev import database as databases
from dev.supervisor import NO_SERVER
<% if cookiecutter.sync_bridge == "yes" %>
from tests import guard
<% endif %>
from tests.process import PROJECT, SETTINGS, Process, serve

pytest_plugins = ["tests.query_loops"]

SERVER = pytest.StashKey[str]()

# A bug in a route is raised in the test that meets it.
LastResort.raise_bugs = True


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the server once, and name a database on it for each of xdist's workers.

    The settings are in place before a test module can import the application.
    """
    if not hasattr(session.config, "workerinput"):
        cleanup = ExitStack()
        session.config.add_cleanup(cleanup.close)
        try:
            server = cleanup.enter_context(databases.running())
        except databases.NoServer as reason:
            pytest.exit(str(reason), returncode=NO_SERVER)
        session.config.stash[SERVER] = databases.describe(server)
        # The workers are started after this, and inherit it.
        os.environ["TEST_DATABASE_URL"] = server.render_as_string(hide_password=False)
        # What is not written cannot be read: each of them would compile everything again.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    url = make_url(os.environ["TEST_DATABASE_URL"]).set(database=f"test_{uuid4().hex[:12]}")
    os.environ.update(SETTINGS, DATABASE_URL=url.render_as_string(hide_password=False))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say what to do about a mark that would run a test on another loop than its fixtures."""
    if item.get_closest_marker("anyio"):
        pytest.fail(
            "Take `@pytest.mark.anyio` away: every `async def test_…` runs without a mark, on the"
            " one loop on which the application and its connections live.",
            pytrace=False,
        )


class OneProcess(LoadGroupScheduling):  # type: ignore[misc]
    """Keeps the tests of the process in one of xdist's workers: each would start its own.

    By their ids: the mark for a group is lost between xdist 3.8 and pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "process" if "[process" in nodeid else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcess | None:
    """Tell xdist how to hand the tests out, where nobody asks for another way."""
    return OneProcess(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which server the tests run on."""
    server = config.stash.get(SERVER, None)
    return server and f"database: {server}"


<% if cookiecutter.sync_bridge == "yes" %>
@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[None]:
    """Fail a test in which synchronous code waited for the database on the event loop."""
    guard.blocked.clear()
    yield
    guard.check()


<% endif %>
@pytest.fixture(scope="session")
def alembic() -> Config:
    """Return Alembic's configuration, as the command line has it."""
    return Config(toml_file=PROJECT / "pyproject.toml")


@pytest.fixture(scope="session", autouse=True)
def database_url() -> Iterator[URL]:
    """Make this process's database, by the migrations, as production's is made."""
    server = make_url(os.environ["TEST_DATABASE_URL"])
    name = make_url(os.environ["DATABASE_URL"]).database
    assert name is not None
    with databases.migrated(server, name) as url:
        yield url


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, database_url: URL) -> Iterator[URL]:
    """Return an empty database beside the one of the other tests, for migrations."""
    server = make_url(os.environ["TEST_DATABASE_URL"])
    with databases.temporary(server, f"{database_url.database}_empty") as url:
        monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        yield url


def copied_migrations(folder: Path) -> Config:
    """Copy the migrations, to change them; return the copy's configuration."""
    shutil.copytree(PROJECT / "migrations", folder, dirs_exist_ok=True)
    # In a checkout that is read only it is not.
    (folder / "versions").chmod(0o700)
    config = Config()
    config.set_main_option("script_location", str(folder))
    return config


@pytest.fixture(scope="session")
async def app() -> AsyncIterator[FastAPI]:
    """Return the application, started."""
    from app.main import app

    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="session")
def database(app: FastAPI) -> Database:
    """Return the application's database."""
    state: Database = app.state.database
    return state


class Lent(Connection):
    """A test's connection, whose transactions are savepoints of the test's."""

    begin = "SAVEPOINT transaction_of_queries"
    commit = "RELEASE SAVEPOINT transaction_of_queries"
    rollback = "ROLLBACK TO SAVEPOINT transaction_of_queries"

    async def release(self) -> None:
        """Leave it to the test."""


class QueriesIn(Queries):
    """Runs the application's queries in a test's transaction, each in a savepoint of it."""

    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        super().__init__(database)
        self._connection = connection

    async def _run(
        self, database: Database, statement: Statement[Any], values: Mapping[str, Any]
    ) -> Any:
        async with self._connection.begin_nested():
            return await super()._run(database, statement, values)

    async def _acquire(self, database: Database) -> Connection:
        return Lent(database, self._plans, await self._connection.get_raw_connection())


@pytest.fixture
async def connection(app: FastAPI, database: Database) -> AsyncIterator[AsyncConnection]:
    """Open a transaction for one test, make the application's sessions join it, roll it back.

    A commit inside ends a savepoint only, and so does an error.
    """
    async with database.engine.connect() as connection:
        transaction = await connection.begin()
<% if cookiecutter.database == "postgresql" %>
        # The driver begins it with the first statement, which may be a savepoint of `Lent`.
        await connection.scalar(select(1))
<% endif %>
        database.sessions.configure(bind=connection, join_transaction_mode="create_savepoint")
        queries, app.state.queries = app.state.queries, QueriesIn(database, connection)
        yield connection
        database.sessions.configure(
            bind=database.engine, join_transaction_mode="conditional_savepoint"
        )
        app.state.queries = queries
        await transaction.rollback()


@pytest.fixture
async def session(connection: AsyncConnection) -> AsyncIterator[AsyncSession]:
    """Return a session of the test's own, in the same transaction as the application's."""
    async with AsyncSession(
        connection, join_transaction_mode="create_savepoint", expire_on_commit=False
    ) as session:
        yield session


@pytest.fixture
async def client(app: FastAPI, connection: AsyncConnection) -> AsyncIterator[AsyncClient]:
    """Return a client of the application, in a transaction that is rolled back.

    All its requests share one connection: one at a time.
    """
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
async def clean(database: Database) -> AsyncIterator[None]:
    """Delete what a test has committed, in any table: who refers to a row goes before it."""
    yield
    async with database.session() as session:
<% if cookiecutter.database == "mysql" %>
        # Else a row that refers to one of its own table could not go after that.
        await session.execute(text("SET foreign_key_checks = 0"))
<% endif %>
        for table in reversed(Base.metadata.sorted_tables):
            await session.execute(delete(table))
<% if cookiecutter.database == "mysql" %>
        await session.execute(text("SET foreign_key_checks = 1"))
<% endif %>


@pytest.fixture
async def committing_client(app: FastAPI, clean: None) -> AsyncIterator[AsyncClient]:
    """Return a client of the application with its own pool and real commits."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture(scope="session", params=["process"])
def shared_server() -> Iterator[Process]:
    """Return the application as production runs it: a process with a port."""
    with serve("app.main:app", "--access-log") as process:
        yield process


@pytest.fixture
async def server(shared_server: Process, clean: None) -> AsyncIterator[AsyncClient]:
    """Return a client of a real server."""
    async with shared_server.client() as client:
        yield client
