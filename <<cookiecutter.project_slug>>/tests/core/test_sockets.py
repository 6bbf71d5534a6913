"""An open socket is closed with a code; sessions on it are those of its messages."""

import asyncio
import json
from typing import Any

import pytest
from httpx2 import AsyncClient
from sqlalchemy import select
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.core.db import Database
from tests.core.tables import Person
from tests.process import Process


async def ask(socket: ClientConnection, **question: Any) -> Any:
    """Send a message and return the answer."""
    await socket.send(json.dumps(question))
    async with asyncio.timeout(10):
        return json.loads(await socket.recv())


async def test_each_message_has_a_session(
    server: AsyncClient, shared_server: Process, database: Database
) -> None:
    async with shared_server.websocket("/socket") as socket:
        for number in range(3):
            answer = await ask(socket, email=f"{number}@example.com")
            assert answer == {"stored": f"{number}@example.com"}
            # Committed before the answer, while the socket is open.
            async with database.session() as session:
                emails = list(await session.scalars(select(Person.email).order_by(Person.email)))
            assert len(emails) == number + 1


@pytest.mark.parametrize(
    ("trouble", "code", "reason"),
    [
        ("taken", 1011, "That already exists"),
        ("full", 1013, "No database connection was free in time"),
        ("conflict", 1013, "Too many want to change the same at once"),
        ("http", 1011, "No such thing"),
        ("bug", 1011, ""),
    ],
)
async def test_an_error_closes_an_open_socket_with_a_code(
    server: AsyncClient, shared_server: Process, trouble: str, code: int, reason: str
) -> None:
    async with shared_server.websocket("/socket") as socket:
        await ask(socket, email="a@example.com")
        with pytest.raises(ConnectionClosed) as closed:
            await ask(socket, email="a@example.com", trouble=trouble)

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
    assert "Expected ASGI message" not in shared_server.log.read_text()


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/socket?refuse=conflict", 503, "Too many want to change the same at once"),
        ("/socket?refuse=bug", 500, "Internal Server Error"),
        ("/socket?refuse=http", 404, "No such thing"),
        ("/socket-with-session", 500, "Internal Server Error"),
    ],
)
async def test_an_error_before_the_socket_is_open_has_the_usual_answer(
    shared_server: Process, path: str, status: int, detail: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with shared_server.websocket(path):
            pass

    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"") == {"detail": detail}


async def test_a_session_for_a_whole_socket_is_refused_with_what_to_write(
    shared_server: Process,
) -> None:
    with pytest.raises(InvalidStatus):
        async with shared_server.websocket("/socket-with-session"):
            pass

    assert "A WebSocket takes no session of its own" in shared_server.log.read_text()


async def test_an_error_after_who_asked_has_hung_up_is_no_bug(
    server: AsyncClient, shared_server: Process
) -> None:
    before = len(shared_server.log.read_text())
    async with shared_server.websocket("/socket") as socket:
        await socket.send(json.dumps({"email": "a@example.com", "trouble": "late"}))
    log = ""
    async with asyncio.timeout(10):
        while "503: too late" not in log:
            await asyncio.sleep(0.01)
            log = shared_server.log.read_text()[before:]
    assert (await server.get("/health/live")).status_code == 200
    assert "Traceback" not in shared_server.log.read_text()[before:]
