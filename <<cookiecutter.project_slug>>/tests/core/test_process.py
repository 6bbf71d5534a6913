"""The database away, the schema changed, the end near; and what the process does without it."""

import asyncio
import json
import os
import re
import signal
import time
from types import FrameType

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, RemoteProtocolError
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.core import shutdown
from app.core.db import Database, DatabaseUnavailable
from app.core.urls import DRIVER
from dev import database as databases
from tests.core.conftest import started
from tests.core.listener import SAYINGS, listening
from tests.process import Process

PASSWORD = "correct-horse"

# What another process may do to the schema under a running service, and undo again.
CHANGES = [
    "ALTER TABLE _test_people ADD COLUMN nickname varchar(10)",
<% if cookiecutter.database == "postgresql" %>
    "ALTER TABLE _test_people ALTER COLUMN full_name TYPE varchar(300)",
    "ALTER TABLE _test_people ALTER COLUMN full_name TYPE text",
    "ALTER TABLE _test_people ALTER COLUMN full_name TYPE varchar(200)",
<% else %>
    "ALTER TABLE _test_people MODIFY full_name varchar(300) NULL",
    "ALTER TABLE _test_people MODIFY full_name text NULL",
    "ALTER TABLE _test_people MODIFY full_name varchar(200) NULL",
<% endif %>
    "ALTER TABLE _test_people DROP COLUMN nickname",
]


async def test_without_a_database_the_process_lives_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"{DRIVER}://user:{PASSWORD}@127.0.0.1:1/name"
    async with started(database_url=make_url(url)) as (client, _):
        live = await client.get("/health/live")
        others = [await client.get(path) for path in ("/health/ready", "/people", "/people/1")]

    assert live.status_code == 200
    for response in others:
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert response.json() == {"detail": "The database is away"}
    assert "503" in caplog.text
    assert PASSWORD not in caplog.text


async def test_without_a_database_nobody_waits_in_line() -> None:
    url = make_url(f"{DRIVER}://user@127.0.0.1:1/name")
    async with started(database_url=url, pool_size=1, pool_timeout=60) as (client, _):
        async with asyncio.timeout(30):
            paths = ["/people", "/echo/1"] * 5
            responses = await asyncio.gather(*map(client.get, paths))

    for response in responses:
        assert response.json() == {"detail": "The database is away"}


@pytest.mark.parametrize("says", [*SAYINGS.values(), None], ids=[*SAYINGS, "goodbye"])
async def test_a_server_that_is_none_is_away_and_keeps_no_socket(says: bytes | None) -> None:
    async with listening(says) as listener:
        url = make_url(f"{DRIVER}://user@127.0.0.1:{listener.port}/name")
        async with started(database_url=url, pool_timeout=0.2) as (client, database):
            began = time.monotonic()
            create = client.post("/people", json={"email": "a@example.com"})
            answers = await asyncio.gather(*map(client.get, ("/health/ready", "/people")), create)
            took = time.monotonic() - began
            with pytest.raises((DatabaseUnavailable, DBAPIError)) as refused:
                await database.ping()
            # Also while somebody keeps the error, and what that keeps.
            await listener.all_have_hung_up()

    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert took < 3
    assert refused.value.__traceback__ is not None


async def test_a_wrong_password_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    server = make_url(os.environ["DATABASE_URL"])
    wrong = server.set(username="nobody-of-that-name", password=PASSWORD)
    async with started(database_url=wrong) as (client, _):
        response = await client.get("/people")

    assert response.status_code == 503
    assert PASSWORD not in caplog.text + response.text


async def test_a_bug_is_answered_in_json_without_its_traceback(app: FastAPI, clean: None) -> None:
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post("/people-then/raise", params={"email": "a@example.com"})

    assert response.status_code == 500
    assert response.json() == {"detail": "Internal Server Error"}


async def test_a_bug_keeps_the_connection_and_is_logged_once(shared_server: Process) -> None:
    """Else the next request on it would be reset, nearly always."""
    before = len(shared_server.log.read_text())
    url = make_url(shared_server.url)
    assert url.port is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)

    async def get(path: str) -> str:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = re.search(r"content-length: (\d+)", head)
        assert size
        await reader.readexactly(int(size[1]))
        return head.split()[1]

    for _ in range(20):
        assert await get("/bug") == "500"
        assert await get("/bug-after-answer") == "200"
        assert await get("/health/live") == "200"
    writer.close()
    async with shared_server.client() as client:
        # Half of an answer must not look like a whole one.
        with pytest.raises(RemoteProtocolError):
            await client.get("/bug-in-answer")
    lines = [json.loads(line) for line in shared_server.log.read_text()[before:].splitlines()]

    tracebacks = [line["traceback"] for line in lines if "traceback" in line]
    assert len(tracebacks) == 41
    assert all(each.endswith("\nZeroDivisionError") for each in tracebacks)
    assert sum(line["message"] == "500: GET /bug" for line in lines) == 20
    assert sum("Exception in ASGI application" in line["message"] for line in lines) == 1


async def test_a_database_error_names_no_values(database: Database, clean: None) -> None:
    with pytest.raises(DBAPIError) as error:
        async with database.session() as session:
            await session.execute(text("SELECT :secret FROM nowhere"), {"secret": PASSWORD})

    assert PASSWORD not in str(error.value)


async def test_a_change_of_the_schema_costs_no_request(
    committing_client: AsyncClient, database: Database
) -> None:
    created = await committing_client.post("/people", json={"email": "a@example.com"})
    path = created.headers["location"]

    async def statuses() -> set[int]:
        responses = await asyncio.gather(
            *(committing_client.get(path) for _ in range(20)),
            *(committing_client.patch(path, json={"full_name": "A"}) for _ in range(5)),
            *(committing_client.get("/people") for _ in range(20)),
        )
        return {response.status_code for response in responses}

    assert await statuses() == {200}
    for change in CHANGES:
        await databases.execute(database.engine.url, change)
        assert await statuses() == {200}, change


async def test_a_stream_has_its_own_session(
    committing_client: AsyncClient, database: Database
) -> None:
    for number in range(3):
        await committing_client.post("/people", json={"email": f"{number}@example.com"})

    response = await committing_client.get("/stream")

    assert response.text == "0@example.com\n1@example.com\n2@example.com\n"
    assert database.pool.checkedout() == 0


async def test_a_background_task_has_its_own_session(committing_client: AsyncClient) -> None:
    response = await committing_client.post("/people-with-task", params={"email": "a@example.com"})

    assert response.status_code == 201
    # The task found the row, since it was committed before the answer.
    person = await committing_client.get(f"/people/{response.json()['id']}")
    assert person.json()["full_name"] == "Welcome"


async def test_it_also_runs_in_a_thread() -> None:
    """As in Starlette's TestClient: there, signals are not its own."""

    async def run() -> int:
        async with started() as (client, _):
            return (await client.get("/health/ready")).status_code

    assert await asyncio.to_thread(asyncio.run, run()) == 200


async def test_after_sigterm_readiness_says_so_and_then_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = asyncio.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopped.set()

    monkeypatch.setattr(shutdown, "DRAIN", 0.2)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        async with started() as (client, _):
            assert (await client.get("/health/ready")).status_code == 200
            os.kill(os.getpid(), signal.SIGTERM)

            ready, live, people = [
                await client.get(path) for path in ("/health/ready", "/health/live", "/people")
            ]
            assert (ready.status_code, live.status_code, people.status_code) == (503, 200, 200)
            assert ready.json() == {"detail": "Shutting down"}
            assert ready.headers["retry-after"]
            assert not stopped.is_set()
            async with asyncio.timeout(5):
                await stopped.wait()
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)
