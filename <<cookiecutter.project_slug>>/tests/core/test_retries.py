"""A request that is run again is the same request, with nothing left of the run before."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, HTTPException, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient
from sqlalchemy import Connection, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.types import Message

from app.core import deps
from app.core.db import Database
from app.core.deps import DatabaseDep, RetryRoute, SessionDep
from app.core.retries import ATTEMPTS
<% if cookiecutter.database == "postgresql" %>
from dev import database as databases
<% endif %>
from tests.core.conftest import started
from tests.core.routes import FAIL
from tests.core.tables import Person

<% if cookiecutter.database == "postgresql" %>
LOSE = text(FAIL.format("40P01"))
FAIL_OTHERWISE = text(FAIL.format("42883"))
<% else %>
LOSE = text(FAIL.format(1213))
FAIL_OTHERWISE = text(FAIL.format(1305))
<% endif %>
ONE = text("SELECT 1")

CONTENDED = {"detail": "Too many want to change the same at once"}


class Loser:
    """Loses a conflict, as the server reports it, in each run but the last."""

    def __init__(self, runs: int = 2) -> None:
        self.left = runs
        self.runs = 0

    async def lose(self, session: AsyncSession) -> None:
        """Count a run."""
        self.runs += 1
        if self.runs < self.left:
            await session.execute(LOSE)


@asynccontextmanager
async def serving(router: APIRouter) -> AsyncIterator[AsyncClient]:
    """Start an application with some more routes."""
    async with started(router) as (client, _):
        yield client


async def read_body(request: Request) -> bytes:
    """Read a body at once."""
    return await request.body()


async def read_stream(request: Request) -> bytes:
    """Read a body as it arrives."""
    return b"".join([part async for part in request.stream()])


async def read_form(request: Request) -> bytes:
    """Read a file out of a form."""
    async with request.form() as form:
        file = form["file"]
        assert not isinstance(file, str)
        return await file.read()


class ReadingRoute(RetryRoute):
    """A route that looks at the body itself."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap the handler once more."""
        handler = super().get_route_handler()

        async def run(request: Request) -> Any:
            await request.body()
            return await handler(request)

        return run


READERS = {"body": read_body, "stream": read_stream, "form": read_form}


@pytest.mark.parametrize("route_class", [RetryRoute, ReadingRoute])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
async def test_each_run_reads_the_same_body(
    route_class: type[RetryRoute], read: Callable[[Request], Awaitable[bytes]]
) -> None:
    router = APIRouter(route_class=route_class)
    loser, seen = Loser(runs=3), []

    @router.post("/read")
    async def endpoint(request: Request, session: SessionDep) -> None:
        seen.append(await read(request))
        await loser.lose(session)

    async def parts() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number * 1000

    async with serving(router) as client:
        if read is read_form:
            response = await client.post("/read", files={"file": b"file" * 1000})
        else:
            response = await client.post("/read", content=parts())

    assert response.status_code == 200
    assert len(seen[0]) >= 3000
    assert seen == [seen[0]] * 3


async def test_each_run_gets_the_same_upload() -> None:
    router = APIRouter(route_class=RetryRoute)
    loser, seen = Loser(), []

    @router.post("/upload")
    async def upload(file: UploadFile, session: SessionDep) -> None:
        seen.append(await file.read())
        await loser.lose(session)

    async with serving(router) as client:
        response = await client.post("/upload", files={"file": b"content"})

    assert response.status_code == 200
    assert seen == [b"content"] * 2


async def test_what_was_read_in_part_begins_anew() -> None:
    router = APIRouter(route_class=RetryRoute)
    loser, seen = Loser(), []

    @router.post("/read")
    async def endpoint(request: Request, session: SessionDep) -> None:
        read = b""
        async for part in request.stream():
            read += part
            if read == b"first" and not loser.runs:
                await loser.lose(session)
        seen.append(read)

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"first", b"second", b"third"):
            yield part

    async with serving(router) as client:
        assert (await client.post("/read", content=parts())).status_code == 200

    assert seen == [b"firstsecondthird"]


async def test_a_body_too_large_to_keep_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "MAX_KEPT", 10)
    router = APIRouter(route_class=RetryRoute)
    loser = Loser(runs=ATTEMPTS)

    @router.post("/read")
    async def endpoint(request: Request, session: SessionDep) -> int:
        size = len(await read_stream(request))
        if size == 10:
            loser.left = 0
        await loser.lose(session)
        return size

    async with serving(router) as client:
        large = await client.post("/read", content=b"x" * 11)
        assert loser.runs == 1
        small = await client.post("/read", content=b"x" * 10)

    assert (large.status_code, large.json()) == (503, CONTENDED)
    assert large.headers["retry-after"]
    assert (small.status_code, small.json()) == (200, 10)


async def test_no_more_than_the_bound_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deps, "MAX_KEPT", 10)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 6, "more_body": True}

    body = deps.KeptBody(receive)
    read = body.reader()
    assert [len((await read())["body"]) for _ in range(3)] == [6, 6, 6]
    assert (body.is_whole, len(body._kept)) == (False, 0)


async def test_dependencies_of_the_requests_scope_go_on_until_the_answer_is_sent() -> None:
    router = APIRouter(route_class=RetryRoute)
    loser, events = Loser(), []

    async def resource() -> AsyncIterator[None]:
        yield
        events.append("closed")

    @router.get("/stream", dependencies=[Depends(resource, scope="request")])
    async def endpoint(session: SessionDep) -> StreamingResponse:
        await loser.lose(session)

        async def lines() -> AsyncIterator[str]:
            yield "line"
            events.append("sent")

        return StreamingResponse(lines())

    async with serving(router) as client:
        assert (await client.get("/stream")).text == "line"

    assert events == ["sent", "closed"]


async def test_all_dependencies_of_a_run_that_failed_end_with_its_error(
    database: Database, clean: None
) -> None:
    router = APIRouter(route_class=RetryRoute)
    loser, ends = Loser(), []

    async def audit(request: Request, database: DatabaseDep) -> AsyncIterator[AsyncSession]:
        try:
            async with database.session() as session:
                yield session
        except DBAPIError:
            ends.append("rolled back")
            raise
        ends.append("committed")

    @router.post("/audited")
    async def endpoint(
        request: Request,
        session: SessionDep,
        log: Annotated[AsyncSession, Depends(audit, scope="request")],
    ) -> None:
        # What a run leaves in the request is not there in the next.
        assert not hasattr(request.state, "seen")
        assert "seen" not in request.scope
        request.state.seen = request.scope["seen"] = True
        log.add(Person(email=f"audit-{loser.runs}@example.com"))
        session.add(Person(email=f"user-{loser.runs}@example.com"))
        await log.flush()
        await session.flush()
        await loser.lose(session)

    async with serving(router) as client:
        assert (await client.post("/audited")).status_code == 200

    assert ends == ["rolled back", "committed"]
    async with database.session() as session:
        stored = list(await session.scalars(select(Person.email).order_by(Person.email)))
    assert stored == ["audit-1@example.com", "user-1@example.com"]


async def test_a_dependency_that_keeps_an_error_to_itself_is_told() -> None:
    router = APIRouter(route_class=RetryRoute)

    async def swallow() -> AsyncIterator[None]:
        try:
            yield
        except DBAPIError:
            return

    @router.get("/swallow", dependencies=[Depends(swallow)])
    async def endpoint(session: SessionDep) -> None:
        await session.execute(FAIL_OTHERWISE)

    async with serving(router) as client:
        with pytest.raises(RuntimeError, match="kept an error to itself"):
            await client.get("/swallow")


@pytest.mark.parametrize("wins", [True, False])
async def test_a_conflict_in_a_task_of_the_route_is_seen(wins: bool) -> None:
    router = APIRouter(route_class=RetryRoute)
    loser = Loser() if wins else Loser(runs=100)

    @router.post("/tasks")
    async def endpoint(database: DatabaseDep) -> None:
        async def part() -> None:
            async with database.session() as session:
                await loser.lose(session)

        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            inner.create_task(part())
            outer.create_task(asyncio.sleep(0))

    async with serving(router) as client:
        response = await client.post("/tasks")

    if wins:
        assert (response.status_code, loser.runs) == (200, 2)
    else:
        assert (response.status_code, response.json()) == (503, CONTENDED)
        assert loser.runs == ATTEMPTS


async def test_tasks_that_fail_together_are_answered_as_one() -> None:
    router = APIRouter(route_class=RetryRoute)

    async def fail(error: Exception) -> None:
        raise error

    @router.get("/{bug}")
    async def endpoint(bug: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(HTTPException(404, "No such thing")))
            group.create_task(fail(ZeroDivisionError() if bug else TimeoutError()))

    async with serving(router) as client:
        response = await client.get("/0")
        assert (response.status_code, response.json()) == (404, {"detail": "No such thing"})
        with pytest.raises(ExceptionGroup):
            await client.get("/1")


async def test_a_deadlock_in_a_savepoint_is_run_again(database: Database, clean: None) -> None:
    """The server has ended the savepoint with the transaction, and says so at its end."""
    router = APIRouter(route_class=RetryRoute)
    both_have_locked, runs = asyncio.Barrier(2), []

    @router.post("/rename/{first}/{second}")
    async def rename(session: SessionDep, first: int, second: int) -> None:
        runs.append(first)
        await session.get_one(Person, first, with_for_update=True)
        if len(runs) <= 2:
            await both_have_locked.wait()
        async with session.begin_nested():
            person = await session.get_one(Person, second, with_for_update=True)
            person.full_name = "B"

    async with database.session() as session:
        people = [Person(email=f"{n}@example.com") for n in range(2)]
        session.add_all(people)
    one, other = (person.id for person in people)
    async with serving(router) as client:
        responses = await asyncio.gather(
            client.post(f"/rename/{one}/{other}"), client.post(f"/rename/{other}/{one}")
        )

    assert [response.status_code for response in responses] == [200, 200]
    assert len(runs) > 2


async def test_the_first_error_counts_not_what_follows_from_it(clean: None) -> None:
    router = APIRouter(route_class=RetryRoute)
    loser = Loser()

    @router.post("/conflict")
    async def conflict(session: SessionDep) -> None:
        try:
            await loser.lose(session)
        finally:
            # Refused by the server, if it accepts nothing more in this transaction.
            await session.execute(ONE)

    def flush_then_ask(session: Session) -> None:
        session.add(Person(email="a@example.com"))
        try:
            session.flush()
        finally:
            # Refused by SQLAlchemy.
            session.execute(ONE)

    def lose(_: object, connection: Connection, person: Person) -> None:
        # Once, and not for the tests that come after this one.
        event.remove(Person, "before_insert", lose)
        connection.execute(LOSE)

    @router.post("/flush")
    async def flush(session: SessionDep) -> None:
        await session.run_sync(flush_then_ask)

    async with serving(router) as client:
        assert (await client.post("/conflict")).status_code == 200
        assert loser.runs == 2
        event.listen(Person, "before_insert", lose)
        assert (await client.post("/flush")).status_code == 200
        assert (await client.post("/flush")).status_code == 409
<% if cookiecutter.database == "postgresql" %>


async def test_what_the_server_cannot_do_is_no_conflict() -> None:
    """0A000 is also what a stale statement is told, which is run again."""
    router = APIRouter(route_class=RetryRoute)
    runs = []

    @router.post("/unsupported")
    async def endpoint(session: SessionDep) -> None:
        runs.append(1)
        await session.execute(text("SELECT DISTINCT id FROM _test_people FOR UPDATE"))

    async with serving(router) as client:
        with pytest.raises(DBAPIError, match="FOR UPDATE is not allowed with DISTINCT"):
            await client.post("/unsupported")

    assert runs == [1]


async def test_a_statement_that_became_stale_where_nothing_is_run_again_is_answered_503(
    database: Database,
) -> None:
    router = APIRouter()

    @router.get("/all")
    async def endpoint(session: SessionDep) -> None:
        await session.execute(text("SELECT * FROM _test_people"))

    async with serving(router) as client:
        assert (await client.get("/all")).status_code == 200
        await databases.execute(database.engine.url, "ALTER TABLE _test_people ADD nickname text")
        try:
            response = await client.get("/all")
        finally:
            await databases.execute(database.engine.url, "ALTER TABLE _test_people DROP nickname")
        assert response.status_code == 503
        assert response.json() == {"detail": "The database's tables are being changed"}
<% else %>


async def test_what_is_missing_follows_from_no_error_before(clean: None) -> None:
    """1305 is not only what becomes of a savepoint."""
    router = APIRouter(route_class=RetryRoute)

    @router.post("/call")
    async def endpoint(session: SessionDep) -> None:
        session.add(Person(email="a@example.com"))
        await session.flush()
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                session.add(Person(email="a@example.com"))
        await session.execute(text("CALL nowhere()"))

    async with serving(router) as client:
        with pytest.raises(DBAPIError, match="nowhere does not exist"):
            await client.post("/call")
<% endif %>
