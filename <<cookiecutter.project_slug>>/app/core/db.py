"""The database: one engine with a bounded pool, and its sessions.

Copy this file and `deps.py` into a package of any project: they import nothing else of this one.
<% if cookiecutter.database == "postgresql" %>
They need `fastapi>=0.165`, `sqlalchemy[asyncio]>=2.1.9` and `asyncpg`. The settings are arguments:

    Database(
        make_url("postgresql+asyncpg://user:password@127.0.0.1:5432/name"),
<% else %>
They need `fastapi>=0.165`, `sqlalchemy[asyncio]>=2.1.9` and `asyncmy`. The settings are arguments:

    Database(
        make_url("mysql+asyncmy://user:password@127.0.0.1:3306/name"),
<% endif %>
        pool_size=20,  # connections that stay open
        max_overflow=0,  # more of them under load
        pool_timeout=3,  # seconds to wait for one
        pool_recycle=1800,  # seconds after which one is replaced, -1 for never
        statement_timeout=30,  # seconds after which the server stops a statement
    )
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
<% if cookiecutter.database == "mysql" %>
from functools import partial
<% endif %>
from typing import Any, Literal, Self, TypeVar, cast

<% if cookiecutter.database == "mysql" %>
import asyncmy
<% endif %>
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import URL, Dialect, ExceptionContext, TextClause, event, text
<% else %>
from sqlalchemy import URL, Connection, Dialect, ExceptionContext, TextClause, event, text
<% endif %>
from sqlalchemy.exc import DBAPIError, DisconnectionError, MissingGreenlet, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import ORMExecuteState, Session
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
<% else %>
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection, PoolResetState
<% endif %>
from sqlalchemy.util.concurrency import await_, greenlet_spawn, in_greenlet
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

logger = logging.getLogger(__name__)

T = TypeVar("T")

<% if cookiecutter.database == "postgresql" %>
MAX_CONNECTIONS = text(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
)

# Errors after which the same transaction may well succeed (SQLSTATE): serialization failure,
# deadlock, and a prepared statement that another process's change of the schema made stale.
CONFLICTS = {"40001", "40P01", "0A000"}

# The server takes no writes (SQLSTATE): after a fail-over it is a replica now.
READ_ONLY = {"25006"}
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
<% else %>
MAX_CONNECTIONS = text("SELECT @@max_connections")

# Errors after which the same transaction may well succeed: deadlock, and a wait for a lock that
# took too long.
CONFLICTS = {1213, 1205}

# The server takes no writes: after a fail-over it is a replica now.
READ_ONLY = {1290, 1792, 1836}
<% endif %>

# A unit of work is run this often at most; before each new run it waits, at random, up to this
# many seconds, and twice as many each time, so that two that collided do not meet again.
ATTEMPTS = 5
BACKOFF = 0.02

PING = text("SELECT 1")

# Seconds within which a healthy server answers that.
PING_TIMEOUT = 2.0


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or does not answer."""


<% if cookiecutter.database == "postgresql" %>
def error_code(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of a database error, or None when the server sent none."""
    # SQLAlchemy hands on a stale statement's error without its code: the driver's has it.
    cause: BaseException | None = error.orig
    while cause is not None:
        if code := getattr(cause, "sqlstate", None):
            return str(code)
        cause = cause.__cause__
    return None
<% else %>
def error_code(error: DBAPIError) -> int | None:
    """Return the number of a database error, or None when it has none."""
    code = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return code if isinstance(code, int) else None
<% endif %>


async def retry_conflicts(unit: Callable[[], Awaitable[T]]) -> T:
    """Run a whole unit of work, and again when it lost a conflict with another.

    `unit` begins its own transaction each time, as in `async with database.session()`. Raises
    what the last of `ATTEMPTS` runs raised.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return await unit()
        except DBAPIError as error:
            if error_code(error) not in CONFLICTS:
                raise
        await asyncio.sleep(random.uniform(0, BACKOFF * 2**attempt))
    return await unit()


class FairQueue(AsyncAdaptedQueue[Any]):
    """Hands a returned connection to whoever has waited longest.

    SQLAlchemy's own queue hands it to whoever asks next: under load some clients starve.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._waiters: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def put_nowait(self, item: Any) -> None:
        """Give to the first waiter, else keep."""
        while self._waiters:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        self.keep(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take what is there, else wait in line. Raises Empty after `timeout` seconds."""
        if not block or timeout is None or not self.empty():
            return self.get_nowait()
        return await_(self.wait(timeout))

    def keep(self, item: Any) -> None:
        """Keep, for who asks next."""
        super().put_nowait(item)

    async def wait(self, timeout: float) -> Any:
        """Wait in line, and take. Raises Empty after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Any] = loop.create_future()
        self._waiters.append((loop.time() + timeout, waiter))
        if self._timer is None:
            self._timer = loop.call_later(timeout, self._expire)
        try:
            return await waiter
        except asyncio.CancelledError:
            # Cancelled at the moment of getting one: the next in line has it.
            if not waiter.cancelled() and waiter.exception() is None:
                self.put_nowait(waiter.result())
            raise

    def wake(self) -> None:
        """Send the first in line away, to see for itself."""
        while self._waiters:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(Empty())
                return

    def _expire(self) -> None:
        """Send away who has waited too long. The line is in order of time: one timer will do."""
        loop = asyncio.get_running_loop()
        while self._waiters and (self._waiters[0][1].done() or self._waiters[0][0] <= loop.time()):
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(Empty())
        self._timer = loop.call_at(self._waiters[0][0], self._expire) if self._waiters else None


class FairPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool with a fair queue."""

    _queue_class = FairQueue
    _pool: FairQueue

    async def borrow(self) -> PoolProxiedConnection:
        """Check a connection out, to be given back.

        As `connect()` does it, but without the greenlet in which SQLAlchemy waits, which costs
        twice as much as the rest. Raises `sqlalchemy.exc.TimeoutError`.
        """
        if self._pool.empty() and self._overflow >= self._max_overflow:
            try:
                record = await self._pool.wait(self._timeout)
            except Empty:
                if self._overflow >= self._max_overflow:
                    text = f"No connection was free within {self._timeout} s"
                    raise PoolTimeoutError(text) from None
            else:
                # Nobody comes between this and the next lines, which take it out again.
                self._pool.keep(record)
        if not self._pool.empty():
            with suppress(MissingGreenlet):
                return self.connect()
        # Something has to be opened.
        return await greenlet_spawn(self.connect)

    async def give_back(self, connection: PoolProxiedConnection) -> None:
        """Check a connection in."""
        if self._max_overflow == 0:
            connection.close()
        else:
            # One too many is closed in truth, which has to be waited for.
            await greenlet_spawn(connection.close)

    def _dec_overflow(self) -> Literal[True]:
        """Count one connection less: it was closed, or could not be opened.

        Who is first in line may open one then, or learn that the database is away, and tell the
        next; they would wait for nothing until their time is over.
        """
        super()._dec_overflow()
        self._pool.wake()
        return True


class OneTaskSession(Session):
    """A session that refuses to be shared by tasks: they would end each other's transaction."""


@event.listens_for(OneTaskSession, "do_orm_execute")
def refuse_other_tasks(state: ORMExecuteState) -> None:
    """Raise RuntimeError in any task but the one that opened the session."""
    if state.session.info["task"] is not asyncio.current_task():
        raise RuntimeError(
            "This session belongs to another task. Open one in each task:"
            " `async with database.session() as session`."
        )


def refuse_unusable_connection(dbapi_connection: Any, *_: object) -> None:
    """Make the pool replace a connection that is closed or still in somebody's transaction.

    Asks the driver, not the server: no round trip, where `pool_pre_ping` takes up to three.
    """
    connection = dbapi_connection.driver_connection
<% if cookiecutter.database == "postgresql" %>
    if connection.is_closed() or connection.is_in_transaction():
<% else %>
    if connection._stream_broken or connection.get_transaction_status():
<% endif %>
        raise DisconnectionError


<% if cookiecutter.database == "postgresql" %>
def server_limits(statement_timeout: float) -> dict[str, str]:
    """Return a connection's limits, which the server keeps also when this process cannot."""
    milliseconds = str(round(statement_timeout * 1000))
    return {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "client_connection_check_interval": "1000",
    }


<% else %>
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
    )


async def open_within(limit: float, **options: Any) -> Any:
    """Open a connection in time, greeting included: the driver's own limit ends before that.

    Raises TimeoutError.
    """
    async with asyncio.timeout(limit):
        return await asyncmy.connect(**options)


def begin(connection: Connection) -> None:
    """Begin a transaction, which the driver does by itself only without autocommit."""
    connection.exec_driver_sql("BEGIN")


def reset(dbapi_connection: Any, _: object, state: PoolResetState) -> None:
    """Roll back what was left open. The driver knows: no round trip where nothing was."""
    if not state.terminate_only and dbapi_connection.driver_connection.get_transaction_status():
        dbapi_connection.rollback()


<% endif %>
def connect_or_say_so(dialect: Dialect, _: object, args: list[Any], options: dict[str, Any]) -> Any:
    """Open a connection; give one name to the many ways in which a server is not there."""
    if not in_greenlet():
        # `borrow` asks again in one.
        raise MissingGreenlet
    try:
        return dialect.connect(*args, **options)
    except dialect.loaded_dbapi.Error as error:
        raise DBAPIError(None, None, error) from error
    except OSError as error:
        reason = str(error) or type(error).__name__
        raise DatabaseUnavailable(f"The database cannot be reached: {reason}") from error


def leave_read_only_server(context: ExceptionContext) -> None:
    """Close a connection whose server has become read-only: a new one finds the new primary."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError) and error_code(error) in READ_ONLY:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


class Database:
    """One engine with a bounded pool, and the sessions on it.

    One worker never has more than `pool_size + max_overflow` connections open.
    """

    def __init__(
        self,
        url: URL,
        *,
        pool_size: int,
        max_overflow: int,
        pool_timeout: float,
        pool_recycle: int,
        statement_timeout: float,
        echo: bool = False,
    ) -> None:
        """Set up the engine; nothing is opened until the first use. Times are in seconds."""
<% if cookiecutter.database == "postgresql" %>
        self.engine = create_async_engine(
            url,
            poolclass=FairPool,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout,
            pool_recycle=pool_recycle,
            echo=echo,
            # Values are people's data: kept out of errors, and so of logs.
            hide_parameters=not echo,
            connect_args={
                "timeout": pool_timeout,
                # For a server that does not even say that the time is over.
                "command_timeout": statement_timeout + 5,
<% if cookiecutter.vector_search == "yes" %>
                "server_settings": server_limits(statement_timeout) | VECTOR_SEARCH,
<% else %>
                "server_settings": server_limits(statement_timeout),
<% endif %>
            },
        )
<% else %>
        self.engine = create_async_engine(
            url,
            poolclass=FairPool,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout,
            pool_recycle=pool_recycle,
            echo=echo,
            # Values are people's data: kept out of errors, and so of logs.
            hide_parameters=not echo,
            # A connection that comes back is rolled back only when that is needed: see `reset`.
            pool_reset_on_return=None,
            connect_args={
                "async_creator_fn": partial(open_within, pool_timeout),
                # For a server that does not even say that the time is over.
                "read_timeout": statement_timeout + 5,
                "init_command": server_limits(statement_timeout),
                # A read is a transaction of its own; sessions begin theirs: see `begin`.
                "autocommit": True,
                # Statements are prepared once for each connection, as other drivers do it.
                "stmt_cache_size": 100,
            },
        )
        event.listen(self.engine.sync_engine, "begin", begin)
        event.listen(self.engine.sync_engine, "reset", reset)
<% endif %>
        event.listen(self.engine.sync_engine, "do_connect", connect_or_say_so)
        event.listen(self.engine.sync_engine, "checkout", refuse_unusable_connection)
        event.listen(self.engine.sync_engine, "handle_error", leave_read_only_server)
        self.sessions = async_sessionmaker(
            self.engine,
            sync_session_class=OneTaskSession,
            # Objects stay readable after the commit, when nothing can be loaded any more.
            expire_on_commit=False,
        )

    @property
    def pool(self) -> FairPool:
        """Return the engine's pool."""
        return cast(FairPool, self.engine.pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Open a session: committed at the end of the block, rolled back on any error.

        Raises `sqlalchemy.exc.TimeoutError` when no connection is free within `pool_timeout`, and
        `DatabaseUnavailable` when none can be opened.
        """
        async with self.sessions(info={"task": asyncio.current_task()}) as session:
            yield session
            await session.commit()

    async def ping(self) -> None:
        """Raise what a request would get now, or DatabaseUnavailable when no answer comes."""
        await self._ask(PING)

    async def _ask(self, question: TextClause) -> Any:
        """Return the answer to what a healthy server answers at once."""
        async with self.engine.connect() as connection:
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    return await connection.scalar(question)
            except TimeoutError:
                raise DatabaseUnavailable(f"No answer within {PING_TIMEOUT:g} s") from None

    async def warn_if_too_many(self, connections: int) -> None:
        """Log a warning when the server allows fewer connections than all workers may open."""
        try:
            allowed = await self._ask(MAX_CONNECTIONS)
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            logger.warning("The database cannot be asked how many connections it allows: %s", error)
            return
        if connections > allowed:
            logger.warning(
                "All workers together may open %d connections, the server allows %d:"
                " lower POOL_SIZE or the number of workers, or raise max_connections.",
                connections,
                allowed,
            )
