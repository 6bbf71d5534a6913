"""Routes that get into trouble on purpose: `tests.core.routes:app` is the application with them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from typing import Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    FastAPI,
    HTTPException,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.responses import StreamingResponse
from sqlalchemy import select, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.config import load_settings
from app.core.db import Database
from app.core.deps import DatabaseDep, RetryRoute, SessionDep
from app.main import create_app
from app.main import settings as usual
from dev import database as databases
from tests.core import people
from tests.core.tables import Person, PersonRead

<% if cookiecutter.database == "postgresql" %>
SLEEP = text("SELECT pg_sleep(:seconds)")
OWN_ID = text("SELECT pg_backend_pid()")
KILL = "SELECT pg_terminate_backend({})"
FAIL = "DO $$ BEGIN RAISE SQLSTATE '{}'; END $$"
<% else %>
# Over two rows: where MySQL's sleep() is stopped in the last one, that is no error.
SLEEP = text("SELECT sleep(:seconds / 2) FROM (SELECT 1 UNION SELECT 2) AS two")
OWN_ID = text("SELECT connection_id()")
KILL = "KILL {}"
FAIL = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {}"
<% endif %>

router = APIRouter(route_class=RetryRoute)
runs = count(1)
barrier = asyncio.Barrier(2)


@router.get("/sleep/{seconds}")
async def sleep(session: SessionDep, seconds: float) -> dict[str, float]:
    """Keep the server busy."""
    await session.execute(SLEEP, {"seconds": seconds})
    return {"slept": seconds}


@router.get("/crowded")
async def crowd(database: DatabaseDep) -> None:
    """Wait in vain, but not long, for one connection more than there are: there is one."""
    database.pool._timeout = 0.2
    async with database.session() as session, database.session() as other:
        await session.connection()
        await other.connection()


@router.get("/impatient")
async def give_up(session: SessionDep) -> None:
    """Have a time limit of one's own."""
    async with asyncio.timeout(0.05):
        await session.execute(SLEEP, {"seconds": 20})


@router.get("/fail/{code}")
async def fail(session: SessionDep, code: str) -> None:
    """Have the server report an error."""
    await session.execute(text(FAIL.format(code)))


@router.get("/echo/{number}")
async def echo(session: SessionDep, number: int) -> int:
    """Return what the server returns, a moment later."""
    await session.execute(SLEEP, {"seconds": 0.05})
    return await session.scalar(select(text(str(number)))) or 0


@router.post("/people-then/{trouble}", status_code=201)
async def create_then(session: SessionDep, trouble: str, email: str) -> dict[str, str]:
    """Write, and get into trouble before the commit."""
    session.add(Person(email=email))
    await session.flush()
    if trouble == "raise":
        raise RuntimeError("a bug")
    # The connection dies after the last statement, before the commit.
    connection_id = await session.scalar(OWN_ID)
    await databases.execute(load_settings().database_url, KILL.format(connection_id))
    return {"email": email}


async def both_have_locked() -> None:
    """Wait, in the first run of each of two requests, until both hold a lock."""
    if next(runs) <= 2:
        await barrier.wait()


@router.post("/rename/{first}/{second}")
async def rename(session: SessionDep, first: int, second: int, full_name: str) -> None:
    """Change two people in the order that is asked for: two such requests can deadlock."""
    for person_id in (first, second):
        person = await session.get_one(Person, person_id, with_for_update=True)
        person.full_name = full_name
        await session.flush()
        await both_have_locked()


@router.get("/stream")
async def stream(database: DatabaseDep) -> StreamingResponse:
    """Stream rows by a session of the stream's own: a request's is closed by then."""

    async def lines() -> AsyncIterator[str]:
        async with database.session() as session:
            async for person in await session.stream_scalars(select(Person).order_by(Person.id)):
                yield f"{person.email}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def welcome(database: Database, person_id: int) -> None:
    """Do something after the answer, by a session of the task's own."""
    async with database.session() as session:
        person = await session.get_one(Person, person_id)
        person.full_name = "Welcome"


@router.post("/people-with-task", status_code=201)
async def create_with_task(
    session: SessionDep, database: DatabaseDep, tasks: BackgroundTasks, email: str
) -> PersonRead:
    """Write, and go on in the background."""
    person = Person(email=email)
    session.add(person)
    await session.flush()
    tasks.add_task(welcome, database, person.id)
    return PersonRead.model_validate(person)


@router.get("/shared-session")
async def share(session: SessionDep) -> None:
    """Share a session between tasks, which it refuses."""
    await asyncio.gather(*(session.execute(SLEEP, {"seconds": 0.01}) for _ in range(2)))


@router.get("/bug")
async def bug() -> None:
    """Have a bug."""
    raise ZeroDivisionError


@router.get("/bug-after-answer")
async def bug_after_answer(tasks: BackgroundTasks) -> None:
    """Have a bug in a background task."""
    tasks.add_task(bug)


@router.get("/bug-in-answer")
async def bug_in_answer() -> StreamingResponse:
    """Have a bug when half of the answer is sent."""

    async def lines() -> AsyncIterator[str]:
        yield "first line\n"
        raise ZeroDivisionError

    return StreamingResponse(lines(), media_type="text/plain")


async def get_into_trouble(database: Database, trouble: str | None) -> None:
    """Fail as a socket can."""
    if trouble == "bug":
        raise ZeroDivisionError
    if trouble == "http":
        raise HTTPException(404, "No such thing")
    if trouble == "full":
        raise PoolTimeoutError("No connection was free within 0 s")
    if trouble == "conflict":
        async with database.session() as session:
<% if cookiecutter.database == "postgresql" %>
            await session.execute(text(FAIL.format("40P01")))
<% else %>
            await session.execute(text(FAIL.format(1213)))
<% endif %>
    if trouble == "late":
        await asyncio.sleep(0.05)
        raise PoolTimeoutError("too late")


@router.websocket("/socket")
async def talk(socket: WebSocket, database: DatabaseDep, refuse: str | None = None) -> None:
    """Store people, with a session for each message."""
    await get_into_trouble(database, refuse)
    await socket.accept()
    with suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive_json()
            await get_into_trouble(database, message.get("trouble"))
            async with database.session() as session:
                session.add(Person(email=message["email"]))
            await socket.send_json({"stored": message["email"]})


@router.websocket("/socket-with-session")
async def talk_with_session(socket: WebSocket, session: SessionDep) -> None:
    """Ask for a session as long as the socket, which is refused."""
    await socket.accept()


def make(*routers: APIRouter, **settings: Any) -> FastAPI:
    """Return the application with these routes and more, and with other settings.

    They come before those of the service, which may have the same paths.
    """
    app = create_app(usual.model_copy(update=settings))
    for each in (router, people.router, *routers):
        app.include_router(each)
        app.router.routes.insert(0, app.router.routes.pop())
    return app


app = make()
