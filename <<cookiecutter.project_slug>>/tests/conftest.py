"""A real database for every test.

Most tests run in a transaction that is rolled back: `client` and `session`. Those that need real
commits use `committing_client`, and those that need a process `server`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import URL, MetaData, delete, make_url, select
<% else %>
from sqlalchemy import URL, MetaData, delete, make_url
<% endif %>
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.api.errors import LastResort
from app.core.config import load_settings
from app.core.db import Database
from app.core.driver import Connection
from app.core.queries import Queries
from app.core.statements import Statement
<% if cookiecutter.vector_search == "yes" %>
from app.models import Document, User
<% else %>
from app.models import User
<% endif %>
from dev import database as databases
from dev.supervisor import NO_SERVER
<% if cookiecutter.sync_bridge == "yes" %>
from tests import guard
<% endif %>
from tests.process import Process, serve

PROJECT = Path(__file__).parent.parent
SERVER = pytest.StashKey[str]()

# What the tests rest on, whatever the service has as its own, in `config.py`, `.env` or outside.
POOL = {
    "POOL_SIZE": "20",
<% if cookiecutter.sync_bridge == "yes" %>
    "SYNC_POOL_SIZE": "5",
<% endif %>
    "MAX_OVERFLOW": "0",
    "POOL_TIMEOUT": "3",
    "POOL_RECYCLE": "1800",
}
SETTINGS = POOL | {
    "DATABASE_READ_URL": "",
    "MIGRATION_DATABASE_URL": "",
    "STATEMENT_TIMEOUT": "30",
    "ECHO_SQL": "false",
    "LOG_LEVEL": "INFO",
    "CORS_ORIGINS": "",
}

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of the process in one of xdist's workers: each would start its own."""
    for item in items:
        if "shared_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("process"))


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
def database_url(alembic: Config) -> Iterator[URL]:
    """Make this process's database, by the migrations, as production's is made."""
    server = make_url(os.environ["TEST_DATABASE_URL"])
    url = make_url(os.environ["DATABASE_URL"])
    assert url.database is not None
    databases.create_database(server, url.database)
    command.upgrade(alembic, "head")
    yield url
    databases.drop_database(server, url.database)


@pytest.fixture(scope="session")
async def app() -> AsyncIterator[FastAPI]:
    """Return the application, started, with routes that get into trouble."""
    from tests.routes import app

    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(scope="session")
def database(app: FastAPI) -> Database:
    """Return the application's database."""
    state: Database = app.state.database
    return state


@asynccontextmanager
async def started(
    *routers: APIRouter, **settings: Any
) -> AsyncIterator[tuple[AsyncClient, Database]]:
    """Start an application of its own with other settings, and routes that get into trouble."""
    from app.main import create_app
    from tests.routes import router

<% if cookiecutter.sync_bridge == "yes" %>
    # What is for threads comes on top: `pool_size` means the asynchronous part here.
    settings = {"sync_pool_size": 1} | settings
    if "pool_size" in settings:
        settings["pool_size"] += settings["sync_pool_size"]
<% endif %>
    app = create_app(load_settings().model_copy(update=settings))
    for each in (*routers, router):
        app.include_router(each)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        yield client, app.state.database


@asynccontextmanager
async def tables_of(metadata: MetaData, database: Database) -> AsyncIterator[None]:
    """Make a test's own tables, for as long as it needs them."""
    async with database.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    try:
        yield
    finally:
        async with database.engine.begin() as connection:
            await connection.run_sync(metadata.drop_all)


class Lent(Connection):
    """A test's connection, whose transactions are savepoints of the test's."""

    begin = "SAVEPOINT transaction_of_queries"
    commit = "RELEASE SAVEPOINT transaction_of_queries"
    rollback = "ROLLBACK TO SAVEPOINT transaction_of_queries"

    async def release(self) -> None:
        """Leave it to the test."""


def be_impatient(database: Database, seconds: float) -> None:
    """Shorten the wait for a free connection, not that for a new one: a busy machine needs it."""
    database.pool._timeout = seconds


async def has_closed(driver: Any) -> None:
    """Wait until the end of a driver's connection has arrived, which the server has ended."""
    async with asyncio.timeout(10):
        while True:
<% if cookiecutter.database == "postgresql" %>
            if driver.is_closed():
<% else %>
            if driver._stream_broken:
<% endif %>
                return
            await asyncio.sleep(0.01)


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
    """Delete what a test has committed."""
    yield
    async with database.session() as session:
        await session.execute(delete(User))
<% if cookiecutter.vector_search == "yes" %>
        await session.execute(delete(Document))
<% endif %>


@pytest.fixture
async def committing_client(app: FastAPI, clean: None) -> AsyncIterator[AsyncClient]:
    """Return a client of the application with its own pool and real commits."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture(scope="session")
async def shared_server() -> AsyncIterator[Process]:
    """Return the application as production runs it: a process with a port."""
    async with serve("tests.routes:app", "--access-log") as process:
        yield process


@pytest.fixture
async def server(shared_server: Process, clean: None) -> AsyncIterator[AsyncClient]:
    """Return a client of a real server."""
    async with AsyncClient(base_url=shared_server.url) as client:
        yield client
