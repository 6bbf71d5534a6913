"""A session belongs to one task and ends once; the end of the process waits for no dead server."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import literal, make_url, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.core import db
from app.core.config import load_settings
from app.core.db import Database
from app.core.deps import SessionDep
from app.core.queries import Queries, Read
from app.core.retries import endings
from tests.core.routes import make

ONE = text("SELECT 1")


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""


class Note(Apart):
    """Never stored: what is refused is refused before."""

    __tablename__ = "_test_notes"
    id: Mapped[int] = mapped_column(primary_key=True)


async def stream(session: AsyncSession) -> None:
    """Begin to read rows one by one."""
    await session.stream(ONE)


async def add(session: AsyncSession) -> None:
    """Add an object, which asks the server nothing yet."""
    session.add(Note(id=1))


USES: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "add": add,
    "begin": lambda session: session.begin_nested().start(),
    "commit": lambda session: session.commit(),
    "connection": lambda session: session.connection(),
    "execute": lambda session: session.execute(ONE),
    "flush": lambda session: session.flush(),
    "get": lambda session: session.get(Note, 1),
    "merge": lambda session: session.merge(Note(id=1)),
    "rollback": lambda session: session.rollback(),
    "run_sync": lambda session: session.run_sync(Session.flush),
    "scalar": lambda session: session.scalar(ONE),
    "stream": stream,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_session_refuses_any_use_by_another_task(
    database: Database, use: Callable[[AsyncSession], Awaitable[Any]]
) -> None:
    async def by_another(session: AsyncSession) -> None:
        await use(session)

    async with database.session() as session:
        assert await session.scalar(ONE) == 1
        with pytest.raises(RuntimeError, match="belongs to another task"):
            await asyncio.create_task(by_another(session))
        # Its own task goes on, with the same transaction.
        assert await session.scalar(ONE) == 1
    assert database.pool.checkedout() == 0


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_session_refuses_any_use_after_its_end(
    database: Database, use: Callable[[AsyncSession], Awaitable[Any]]
) -> None:
    async with database.session() as session:
        inside = session.sync_session
        assert await session.scalar(ONE) == 1

    with pytest.raises(RuntimeError, match="This session is over"):
        await use(session)
    with pytest.raises(InvalidRequestError, match="permanently closed"):
        inside.begin()
    assert database.pool.checkedout() == 0


@pytest.mark.parametrize("kind", ["session", "transaction"])
async def test_what_is_open_ends_with_its_task(database: Database, app: FastAPI, kind: str) -> None:
    """A stream whose client has hung up is not told, but left to the garbage collector."""
    queries: Queries = app.state.queries
    one = Read(int, select(literal(1).label("one")))

    async def stream() -> AsyncGenerator[None]:
        if kind == "session":
            async with database.session() as session:
                await session.execute(ONE)
                yield
        else:
            async with queries.begin() as transaction:
                await transaction.all(one)
                yield

    left = stream()

    async def begin() -> None:
        await anext(left)

    await asyncio.create_task(begin())
    await asyncio.sleep(0)
    await asyncio.gather(*endings)
    assert database.pool.checkedout() == 0
    # What is left of it is closed some time.
    await left.aclose()
    assert await queries.all(one) == [1]


async def test_a_background_task_that_uses_the_requests_session_is_told(app: FastAPI) -> None:
    router = APIRouter()

    async def late(session: AsyncSession) -> None:
        await session.execute(ONE)

    @router.post("/late", status_code=202)
    async def use_late(session: SessionDep, tasks: BackgroundTasks) -> None:
        await session.execute(ONE)
        tasks.add_task(late, session)

    own = make(router)
    async with own.router.lifespan_context(own):
        database: Database = own.state.database
        transport = ASGITransport(own)
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            for _ in range(2):
                with pytest.raises(RuntimeError, match="This session is over"):
                    await client.post("/late")
            assert database.pool.checkedout() == 0
            assert (await client.get("/health/ready")).status_code == 200


async def test_the_end_does_not_wait_for_a_dead_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that falls silent, as a network that is gone: nothing arrives, nothing ends."""
    monkeypatch.setattr(db, "CLOSE_TIMEOUT", 0.3)
    url = load_settings().database_url
    # How the drivers name a Unix socket.
    query = dict(url.query)
    path = str(query.pop("host", query.pop("unix_socket", "")))
    silent = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not silent.is_set():
                writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
<% if cookiecutter.database == "postgresql" %>
        socket = f"{path}/.s.PGSQL.{url.port or 5432}"
<% else %>
        socket = path
<% endif %>
        if path:
            to_server, from_here = await asyncio.open_unix_connection(socket)
        else:
            to_server, from_here = await asyncio.open_connection(url.host, url.port)
        writers.extend((writer, from_here))
        await asyncio.gather(pump(reader, from_here), pump(to_server, writer))

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    through = make_url(url).set(host="127.0.0.1", port=port, query=query)
    slow = Database(
        through,
        pool_size=4,
        max_overflow=0,
        pool_timeout=5,
        pool_recycle=-1,
        statement_timeout=5,
    )
    try:
        async with slow:
            held = [await slow.pool.acquire() for _ in range(4)]
            for connection in held:
                await slow.pool.release(connection)
            assert slow.pool.checkedin() == 4
            silent.set()
            began = time.monotonic()
        assert time.monotonic() - began < 3
    finally:
        for writer in writers:
            writer.close()
        proxy.close()


def halt() -> None:
    """Stand still for so long that an answer is there at the loop's next turn."""
    time.sleep(0.001)


@pytest.mark.parametrize("way", ["session", "single statement"])
async def test_a_cancellation_that_comes_with_an_answer_is_heard(
    database: Database, queries: Queries, way: str
) -> None:
    ones = Read(int, select(literal(1)))

    async def ask() -> None:
        if way == "session":
            async with database.session() as session:
                await session.execute(select(literal(1)))
                await session.execute(select(literal(2)))
        else:
            await queries.all(ones)
            await queries.all(ones)

    await ask()
    for turns in range(1, 40):
        task = asyncio.create_task(ask())
        for _ in range(turns):
            await asyncio.sleep(0)
            halt()
        if not task.cancel():
            break
        await asyncio.wait([task])
        assert task.cancelled(), turns
    assert turns > 3
