"""How many connections may be opened, and what watches over those that are."""

import re
import socket
import sys
from typing import Any

import pytest
from app.core.db import Database
from programs import IS_POSTGRESQL, pgbouncer
from replicas import replicated
from tests.process import serve

# Fewer than any server allows, but for the limit that a test sets.
SETTINGS = {"POOL_SIZE": "40", "MAX_OVERFLOW": "0"}
WARNED = ["40 connections, the server allows 39 to the user of DATABASE_URL"]
ALSO_OF_REPLICA = [*WARNED, f"{WARNED[0][:-3]}READ_URL"]

OF_USER = (
    "ALTER ROLE app CONNECTION LIMIT 39"
    if IS_POSTGRESQL
    else "ALTER USER app@localhost WITH MAX_USER_CONNECTIONS 39"
)
OF_SERVER = (
    "ALTER DATABASE app CONNECTION LIMIT 39" if IS_POSTGRESQL else "SET GLOBAL max_connections = 39"
)


async def warnings(**settings: str) -> list[str]:
    """Return what a service warns of at its start."""
    with serve(**settings | SETTINGS) as process:
        said = process.log.read_text()
    return re.findall(r"may open (.* the server allows .*?):", said)


@pytest.mark.parametrize("limit", [OF_USER, OF_SERVER])
async def test_a_limit_of_the_user_or_of_the_server_is_heeded(limit: str) -> None:
    async with replicated() as pair:
        assert await warnings(**pair.urls) == []
        await pair.primary.execute(limit)
        # What is set for all of MariaDB is not replicated.
        is_replicated = IS_POSTGRESQL or limit is OF_USER
        said = await warnings(**pair.urls)
        assert said == (ALSO_OF_REPLICA if is_replicated else WARNED)


if IS_POSTGRESQL:

    async def test_what_is_reserved_is_heeded_and_a_pooler_has_its_own_limits() -> None:
        # 60, less 3 for superusers and 18 for others.
        async with replicated("max_connections=60", "reserved_connections=18") as pair:
            assert await warnings(**pair.urls) == ALSO_OF_REPLICA
            ignored = "statement_timeout,idle_in_transaction_session_timeout"
            ignored += ",client_connection_check_interval"
            async with pgbouncer(pair.primary, ignore_startup_parameters=ignored) as url:
                through = url.render_as_string(hide_password=False)
                assert await warnings(DATABASE_URL=through) == []


async def test_the_system_watches_over_connections() -> None:
    """So that a machine that is gone is noticed within seconds, also by who waits for an answer.

    Tried by hand between network namespaces, which takes root: 5 s, and 35 s without.
    """
    async with replicated() as pair:
        database = Database(
            pair.primary.url,
            pool_size=1,
            max_overflow=0,
            pool_timeout=3,
            pool_recycle=-1,
            statement_timeout=30,
        )
        async with database:
            connection = await database.pool.acquire()
            driver: Any = connection.driver_connection
            opened = driver._transport.get_extra_info("socket")
            assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if sys.platform == "linux":
                assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
                assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
            await database.pool.release(connection)
