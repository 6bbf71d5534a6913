"""What proves the core: routes and tables of these tests' own, whatever the service has.

`app`, `database`, `shared_server` and `clean` are here those of the application with these routes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import MetaData, delete

from app.core.db import Database
from app.core.queries import Queries
from tests.core.tables import Apart, Person
from tests.process import Process, serve


# For all, since who starts an application of its own rests on its tables as well.
@pytest.fixture(scope="session", autouse=True)
async def app() -> AsyncIterator[FastAPI]:
    """Return the application, started, with the routes and tables of these tests."""
    from tests.core.routes import app

    async with app.router.lifespan_context(app), tables_of(Apart.metadata, app.state.database):
        yield app


@pytest.fixture(scope="session")
def database(app: FastAPI) -> Database:
    """Return the application's database."""
    state: Database = app.state.database
    return state


@pytest.fixture(scope="session", params=["process"])
def shared_server(database: Database) -> Iterator[Process]:
    """Return the application as production runs it: a process with a port."""
    with serve("tests.core.routes:app", "--access-log") as process:
        yield process


@pytest.fixture
def queries(database: Database) -> Queries:
    """Return what runs single statements there."""
    return Queries(database)


@pytest.fixture
async def clean(database: Database) -> AsyncIterator[None]:
    """Delete what a test has committed."""
    yield
    async with database.session() as session:
        await session.execute(delete(Person))


@asynccontextmanager
async def started(
    *routers: APIRouter, **settings: Any
) -> AsyncIterator[tuple[AsyncClient, Database]]:
    """Start an application of its own with other settings and more routes."""
    from tests.core.routes import make

<% if cookiecutter.sync_bridge == "yes" %>
    # What is for threads comes on top: `pool_size` means the asynchronous part here.
    settings = {"sync_pool_size": 1} | settings
    if "pool_size" in settings:
        settings["pool_size"] += settings["sync_pool_size"]
<% endif %>
    app = make(*routers, **settings)
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


def be_impatient(database: Database, seconds: float) -> None:
    """Shorten the wait for a free connection, not that for a new one: a busy machine needs it."""
    database.pool._timeout = seconds


async def until(there: Callable[[], object]) -> None:
    """Wait until something is there, such as what exporters send when they like."""
    async with asyncio.timeout(30):
        while True:
            if there():
                return
            await asyncio.sleep(0.02)


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
