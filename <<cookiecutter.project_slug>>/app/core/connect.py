"""How a connection is opened, what holds on it while it is open, and how many there may be."""

import asyncio
import socket
<% if cookiecutter.database == "mysql" %>
import sys
<% endif %>
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
<% if cookiecutter.database == "mysql" %>
from types import SimpleNamespace
<% endif %>
from typing import Any

<% if cookiecutter.database == "postgresql" %>
import asyncpg
from sqlalchemy import URL, Engine, event, text
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util.concurrency import await_, in_greenlet
<% else %>
from asyncmy import connection as driver
from asyncmy.constants.CLIENT import MULTI_STATEMENTS
from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util.concurrency import await_, in_greenlet

from .retries import ATTEMPTS
from .server_errors import is_begun
<% endif %>

# Returns a URL whose user and password are good now: of a file that changes, or with a token.
Login = Callable[[], URL | Awaitable[URL]]

# Seconds without a sign of the other machine, after which the system ends a connection. On Linux
# also what was sent must have arrived within them.
SILENCE_LIMIT = 5
KEEP_ALIVE = {"TCP_KEEPIDLE": SILENCE_LIMIT, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": SILENCE_LIMIT}
KEEP_ALIVE |= {"TCP_USER_TIMEOUT": SILENCE_LIMIT * 1000}

<% if cookiecutter.database == "postgresql" %>
# How many connections this role may have here: no row through a pooler such as PgBouncer, which
# has limits of its own, and tells its clients of other processes than the server does.
MAX_CONNECTIONS = text(
    "SELECT least("
    " current_setting('max_connections')::int - CASE WHEN rolsuper THEN 0"
    " ELSE current_setting('superuser_reserved_connections')::int"
    "  + coalesce(current_setting('reserved_connections', true)::int, 0) END,"
    " CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit END,"
    " CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit END)"
    " FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
    " AND pg_backend_pid() = :process"
)
<% else %>
# Whatever the server's own are: what does not fit into its column is refused, not cut short; what
# the driver escapes is read so, where with NO_BACKSLASH_ESCAPES a quote in bytes would end them; a
# commit begins no other transaction, in which a write that follows would be lost; what is in none is
# committed by itself, which the driver would not notice to be turned off; tables are made that know
# transactions; and names stand between quotes, where errors and schemas are read.
MODES = (
    "sql_mode = CONCAT(REPLACE(@@sql_mode, 'NO_BACKSLASH_ESCAPES', ''), ',STRICT_TRANS_TABLES'),"
    " completion_type = 0, autocommit = 1, default_storage_engine = InnoDB,"
    " sql_quote_show_create = 1"
)

# Of the server, and of this user, where 0 stands for none.
MAX_CONNECTIONS = text(
    "SELECT LEAST(@@max_connections, IF(@@max_user_connections, @@max_user_connections,"
    " @@max_connections))"
)
<% endif %>
<% if cookiecutter.database == "postgresql" %>

# Whether the server encrypts: "SSLRequest" of the protocol.
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)
<% endif %>
<% if cookiecutter.vector_search == "yes" %>

# How pgvector's HNSW indexes are searched.
VECTOR_SEARCH = {
    # Of the true 10 nearest among 5,000 random vectors of 384 numbers, the hardest there are, it
    # finds 0.54 with pgvector's default of 40, 0.80 with 100, 0.97 with 300 and 0.99 with 400, in
    # 0.6, 1.0, 2.0 and 2.5 ms. Vectors of texts are easier.
    "hnsw.ef_search": "400",
    # Where a filter leaves too few of these, it goes on to the next nearest, but for no more than
    # about 0.1 s.
    "hnsw.iterative_scan": "strict_order",
    "hnsw.max_scan_tuples": "20000",
    # To read here and there costs as much as to read in a row, but on a spinning disk. With the
    # server's default of 4 the planner would look at all of a table of 5,000 instead.
    "random_page_cost": "1.1",
}
<% endif %>


<% if cookiecutter.database == "postgresql" %>
def server_limits(statement_timeout: float) -> dict[str, str]:
    """Return what is set on a connection: its limits the server keeps when this process cannot."""
    milliseconds = str(round(statement_timeout * 1000))
<% if cookiecutter.vector_search == "yes" %>
    return VECTOR_SEARCH | {
<% else %>
    return {
<% endif %>
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "client_connection_check_interval": "1000",
    }


async def open_within(limit: float, **options: Any) -> Any:
    """Open a connection to the first of a URL's hosts that is what the URL asks for.

    Each has its share of the time, where the driver would spend all of it on one that is silent.
    Raises what the last of them raised, such as TimeoutError.
    """
    host, port = options.pop("host", None), options.pop("port", None)
    hosts = list(zip(host, port, strict=True)) if isinstance(host, list) else [(host, port)]
    attempts = [{"host": host, "port": port} for host, port in hosts]
    if "prefer-standby" in options.get("dsn", ""):
        # Another host may be one.
        attempts = [
            attempt | {"target_session_attrs": wanted}
            for wanted in ("standby", "any")
            for attempt in attempts
        ]
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    for left in range(len(attempts), 0, -1):
        share = (end - loop.time()) / left
        try:
            connection = await asyncpg.connect(**options, **attempts[-left], timeout=share)
        except (OSError, asyncpg.TargetServerAttributeNotMatched, asyncpg.CannotConnectNowError):
            if left == 1:
                raise
        else:
            keep_alive(connection._transport)
            return connection


async def is_silent(address: Any, limit: float) -> bool:
    """Return whether a server does not even greet: frozen, or its machine is gone.

    It is asked whether it would encrypt, which costs no session, and which a pooler answers too.
    """
    connect = asyncio.open_unix_connection if isinstance(address, str) else asyncio.open_connection
    where = [address] if isinstance(address, str) else address
    writer = None
    try:
        async with asyncio.timeout(limit):
            reader, writer = await connect(*where)
            writer.write(SSL_REQUEST)
            await reader.read(1)
    except TimeoutError:
        return True
    except OSError:
        # Whoever refuses is not silent: connections to it have ended.
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
    return False
<% else %>
async def wait_for(answer: Awaitable[Any], timeout: float | None) -> Any:
    """Wait as `asyncio.wait_for` does from Python 3.12 on.

    That of 3.11, by which the driver waits for each answer, loses a cancellation that comes together
    with one: https://github.com/python/cpython/issues/86296
    """
    async with asyncio.timeout(timeout):
        return await answer


if sys.version_info < (3, 12):
    vars(driver)["asyncio"] = SimpleNamespace(**vars(asyncio) | {"wait_for": wait_for})


def server_limits(statement_timeout: float) -> str:
    """Set a connection's limits, which the server keeps also when this process cannot.

    What is in comments only MariaDB (M!) or MySQL (80000) reads: MariaDB stops any statement, MySQL
    a SELECT. A wait for a lock is tried again, and all tries together stay within the limit. The
    server's own isolation, REPEATABLE READ, locks gaps between rows: more deadlocks.
    """
    return (
        f"SET innodb_lock_wait_timeout = {max(1, round(statement_timeout / ATTEMPTS))}"
        f" /*M! , max_statement_time = {statement_timeout} */"
        f" /*M! , idle_transaction_timeout = {max(1, round(statement_timeout))} */"
        f" /*!80000 , max_execution_time = {round(statement_timeout * 1000)} */"
        " /*M! , tx_isolation = 'READ-COMMITTED' */"
        " /*!80000 , transaction_isolation = 'READ-COMMITTED' */"
        f", {MODES}"
    )


async def open_within(limit: float, **options: Any) -> Any:
    """Open a connection in time, greeting included: the driver's own limit ends before that.

    Raises TimeoutError.
    """
    # Text of its own the driver would send in latin1.
    options["password"] = options.get("password", "").encode()
    connection: Any = driver.Connection(**options)  # type: ignore[no-untyped-call]
    # Of several statements in one text, the driver would tell the errors of the first alone.
    connection._client_flag &= ~MULTI_STATEMENTS
    async with asyncio.timeout(limit):
        await connection.connect()
    if options.get("ssl"):
        # Over TLS the driver does not tell MariaDB that it has a command for many rows, but sends
        # it: error 1295.
        connection._bulk_supported = False
    keep_alive(connection._transport)
    return connection


def begin(connection: Connection) -> None:
    """Begin a transaction, which the driver does by itself only without autocommit."""
    if is_begun(connection):
        connection.exec_driver_sql("BEGIN")


def set_isolation_level(dialect: MySQLDialect, connection: Any, level: Any) -> None:
    """Set a connection's isolation, without an end to the autocommit that single writes rest on."""
    if level != "AUTOCOMMIT":
        MySQLDialect.set_isolation_level(dialect, connection, level)
<% endif %>


def keep_alive(transport: asyncio.Transport) -> None:
    """Have the system notice that the other machine is gone; names it does not know are left out."""
    connected = transport.get_extra_info("socket")
    if connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def log_in(login: Login, _: object, __: object, ___: object, options: dict[str, Any]) -> None:
    """Give a new connection the user and password of now."""
    url = login()
    if isawaitable(url):
        url = await_(url)
    options["user"] = url.username
    if url.password is not None:
        options["password"] = url.password


def open_in_greenlet(*_: object) -> None:
    """Refuse to open a connection where nothing can wait for it; `acquire` asks again."""
    if not in_greenlet():
        raise MissingGreenlet


def listen_to_connects(engine: Engine, login: Login | None) -> None:
    """Have each connection opened by these rules."""
    event.listen(engine, "do_connect", open_in_greenlet)
<% if cookiecutter.database == "mysql" %>
    event.listen(engine, "begin", begin)
    dialect: Any = engine.dialect
    dialect.set_isolation_level = partial(set_isolation_level, dialect)
<% endif %>
    if login is not None:
        event.listen(engine, "do_connect", partial(log_in, login))
