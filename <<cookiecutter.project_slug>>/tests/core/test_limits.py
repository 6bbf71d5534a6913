"""What is bounded stays bounded: connections, waits, statements, bodies."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, HTTPException, Request
from fastapi.routing import APIRoute
from httpx2 import AsyncClient
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import event, select
<% else %>
from sqlalchemy import event, select, text
<% endif %>
from sqlalchemy.exc import DBAPIError
from starlette.types import Message, Receive, Scope, Send

from app.api.middleware import BodyLimit
from app.core.db import Database
from app.core.deps import RetryRoute
from dev import database as databases
from tests.core import routes
from tests.core.conftest import be_impatient, has_closed, started
from tests.core.tables import Person

# Counts the statements that run in this process's database, but for itself.
<% if cookiecutter.database == "postgresql" %>
BUSY = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND state <> 'idle' AND pid <> pg_backend_pid()"
)
<% else %>
BUSY = (
    "SELECT count(*) FROM information_schema.processlist WHERE db = database()"
    " AND command <> 'Sleep' AND id <> connection_id()"
)
<% endif %>


async def test_a_full_pool_is_answered_503_and_recovers() -> None:
    async with started(pool_size=1, max_overflow=1) as (client, database):
        async with database.engine.connect(), database.engine.connect():
            be_impatient(database, 0.2)
            began = time.monotonic()
            read, ready, live = await asyncio.gather(
                client.get("/people"), client.get("/health/ready"), client.get("/health/live")
            )
            waited = time.monotonic() - began
        assert (read.status_code, ready.status_code, live.status_code) == (503, 503, 200)
        assert read.headers["retry-after"] == ready.headers["retry-after"] == "1"
        assert "connection" in ready.json()["detail"]
        assert 0.2 <= waited < 2

        be_impatient(database, 5)
        assert (await client.get("/health/ready")).status_code == 200
        assert database.pool.checkedout() == 0


async def test_never_more_connections_than_allowed() -> None:
    async with started(pool_size=2, max_overflow=1, pool_timeout=5) as (client, database):
        counts: list[int] = []

        @event.listens_for(database.pool, "checkout")
        def count(*_: object) -> None:
            counts.append(database.pool.checkedout())

        paths = ["/echo/1", "/people", "/health/ready"] * 10
        responses = await asyncio.gather(*map(client.get, paths))

        assert {response.status_code for response in responses} == {200}
        assert max(counts) == 3


async def test_cancelled_waiters_lose_no_connection() -> None:
    async with started(pool_size=2, max_overflow=0, pool_timeout=5) as (client, database):
        requests = [asyncio.create_task(client.get("/echo/1")) for _ in range(20)]
        for delay, request in enumerate(requests[::2]):
            await asyncio.sleep(0.002 * (delay % 3))
            request.cancel()
        responses = await asyncio.gather(*requests, return_exceptions=True)

        answered = [r for r in responses if not isinstance(r, BaseException)]
        assert {response.status_code for response in answered} == {200}
        assert len(answered) >= 10
        assert database.pool.checkedout() == 0
        assert (await client.get("/people")).status_code == 200


async def test_a_slow_statement_is_stopped_and_answered_504() -> None:
    async with started(statement_timeout=0.2) as (client, _):
        began = time.monotonic()
        response = await client.get("/sleep/20")

        assert response.status_code == 504
        assert time.monotonic() - began < 5
        assert (await client.get("/people")).status_code == 200


<% if cookiecutter.database == "mysql" %>
async def test_all_tries_to_get_a_lock_stay_within_the_limit() -> None:
    async with started(statement_timeout=30) as (_, database), database.session() as session:
        assert await session.scalar(text("SELECT @@innodb_lock_wait_timeout")) == 6


<% endif %>
async def test_a_time_limit_of_a_route_is_answered_504() -> None:
    async with started() as (client, _):
        response = await client.get("/impatient")

        assert response.status_code == 504
        assert response.json()["detail"]


async def test_an_idle_transaction_is_ended() -> None:
<% if cookiecutter.database == "postgresql" %>
    limit = 0.2
<% else %>
    limit = 1
<% endif %>
    async with started(statement_timeout=limit) as (client, database):
        async with database.sessions() as session:
            await session.execute(select(Person))
<% if cookiecutter.database == "mysql" %>
            if not database.engine.dialect.is_mariadb:  # type: ignore[attr-defined]
                # MySQL has no such limit.
                await asyncio.sleep(1.5 * limit)
                await session.execute(select(Person))
                return
<% endif %>
            connection = await session.connection()
            await has_closed((await connection.get_raw_connection()).driver_connection)
            with pytest.raises(DBAPIError) as ended:
                await session.execute(select(Person))
        assert ended.value.connection_invalidated
        assert (await client.get("/people")).status_code == 200


async def driver_connection(database: Database) -> Any:
    """Return the driver's connection that the pool holds, and would hand out next."""
    async with database.engine.connect() as connection:
        return (await connection.get_raw_connection()).driver_connection


@pytest.mark.parametrize(("recycle", "is_replaced"), [(0, True), (1800, False), (-1, False)])
async def test_a_connection_is_replaced_in_time(recycle: int, is_replaced: bool) -> None:
    async with started(pool_size=1, pool_recycle=recycle) as (_, database):
        before = await driver_connection(database)
        assert (await driver_connection(database) is not before) == is_replaced


async def test_the_end_closes_all_connections() -> None:
    async with started(pool_size=1) as (_, database):
        connection = await driver_connection(database)
<% if cookiecutter.database == "postgresql" %>
        assert not connection.is_closed()
    assert connection.is_closed()
<% else %>
        assert connection.connected
    assert not connection.connected
<% endif %>


async def test_a_connection_in_a_transaction_is_not_handed_out() -> None:
    async with started(pool_size=1) as (client, database):
        left_behind = await driver_connection(database)
<% if cookiecutter.database == "postgresql" %>
        await left_behind.execute("BEGIN")
<% else %>
        await left_behind.query("START TRANSACTION")
<% endif %>

        assert (await client.get("/people")).status_code == 200
        assert await driver_connection(database) is not left_behind


async def test_a_connection_that_the_server_closed_is_not_handed_out() -> None:
    async with started(pool_size=1) as (client, database):
        async with database.engine.connect() as connection:
            number = await connection.scalar(routes.OWN_ID)
            driver = (await connection.get_raw_connection()).driver_connection
        await databases.execute(database.engine.url, routes.KILL.format(number))
        # The end of the connection arrives by itself, without a question.
        await has_closed(driver)

        assert (await client.get("/people")).status_code == 200


async def test_a_connection_to_a_server_that_became_read_only_is_left(clean: None) -> None:
    async with started(pool_size=1) as (client, database):
        connection = await driver_connection(database)
<% if cookiecutter.database == "postgresql" %>
        await connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
<% else %>
        await connection.query("SET SESSION TRANSACTION READ ONLY")
<% endif %>
        refused = await client.post("/people", json={"email": "a@example.com"})
        accepted = await client.post("/people", json={"email": "a@example.com"})

    assert (refused.status_code, accepted.status_code) == (503, 201)
    assert refused.json() == {"detail": "The database takes no writes at the moment"}


async def test_a_start_with_too_large_pools_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    with caplog.at_level(logging.WARNING):
        async with started(pool_size=1000, max_overflow=500):
            pass

    assert "may open << 4500 if cookiecutter.sync_bridge == "no" else 4503 >> connections, the server allows" in caplog.text


sizes = APIRouter(prefix="/sizes")


async def count(data: Annotated[str, Body()]) -> int:
    """Count what is sent."""
    return len(data)


sizes.post("/usual")(count)
sizes.post("/large", max_body_size=50)(count)
sizes.post("/small", max_body_size=10)(count)


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
@pytest.mark.parametrize(("route", "limit"), [("usual", 30), ("large", 50), ("small", 10)])
async def test_a_body_too_large_is_refused(route: str, limit: int, chunked: bool) -> None:
    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for n in range(0, len(body), 5):
            yield body[n : n + 5]

    origins = ["https://a.example"]
    async with started(sizes, max_body_size=30, cors_origins=origins) as (client, _):
        for size, status in ((limit, 200), (limit + 1, 413)):
            body = json.dumps("a" * (size - 2)).encode()
            response = await client.post(
                f"/sizes/{route}",
                content=chunks(body) if chunked else body,
                headers={"content-type": "application/json", "origin": "https://a.example"},
            )
            assert response.status_code == status
            assert response.headers["x-request-id"]
            assert response.headers["access-control-allow-origin"]
            if status == 413:
                assert response.json()["detail"]
            else:
                assert response.json() == size - 2


async def test_a_body_without_a_header_is_counted_in_http_2() -> None:
    async def read_all(_: Scope, receive: Receive, __: Send) -> None:
        while (await receive())["more_body"]:
            pass

    async def receive() -> Message:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"more", "more_body": True}

    async def send(_: Message) -> None: ...

    limited = BodyLimit(read_all, max_body_size=10)
    with pytest.raises(HTTPException, match="413"):
        async with asyncio.timeout(5):
            await limited({"type": "http", "http_version": "2", "headers": []}, receive, send)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"null",
        b"{",
        b'{"email": null}',
        b'{"email": 5}',
        b'{"email": NaN}',
        b'{"email": "a\\u0000@example.com"}',
        b'{"email": "\\ud800@example.com"}',
    ],
)
async def test_bad_input_is_refused_with_a_reason(client: AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/people", content=body, headers=headers)

    assert response.status_code == 422
    detail = response.json()["detail"]
    assert detail
    assert all(set(error) == {"type", "loc", "msg"} for error in detail)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", None])
async def test_a_body_of_another_type_is_refused(
    client: AsyncClient, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await client.post("/people", content=b'{"email": "a@example.com"}', headers=headers)

    assert response.status_code == 422


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000], ids=["not UTF-8", "too deep"])
async def test_a_body_that_cannot_be_read_is_refused(client: AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/people", content=body, headers=headers)

    assert response.status_code in {400, 422}
    assert response.json()["detail"]


async def test_clients_that_hang_up_leave_nothing(server: AsyncClient, database: Database) -> None:
    async def hang_up(number: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02 + 0.001 * (number % 7)):
                await server.get(f"/echo/{number}")

    before = int(await databases.execute(database.engine.url, BUSY))
    for start in range(0, 60, 30):
        await asyncio.gather(*map(hang_up, range(start, start + 30)))

    # Nobody gets the rows of another, and every connection can be had.
    numbers = range(1000, 1030)
    answers = await asyncio.gather(*(server.get(f"/echo/{number}") for number in numbers))
    assert [int(answer.text) for answer in answers] == list(numbers)
    async with asyncio.timeout(5):
        while int(await databases.execute(database.engine.url, BUSY)) > before:
            pass


@pytest.mark.parametrize("retried", [True, False])
async def test_a_body_whose_sender_has_hung_up_is_no_bug(retried: bool) -> None:
    router = APIRouter(route_class=RetryRoute if retried else APIRoute)

    @router.post("/half")
    async def read(request: Request) -> int:
        return len(await request.body())

    parts: Iterator[Message] = iter(
        [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return next(parts)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", b"8")]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/half"}
    await routes.make(router)(scope | {"query_string": b"", "headers": headers}, receive, send)
    assert sent[0]["status"] == 400
