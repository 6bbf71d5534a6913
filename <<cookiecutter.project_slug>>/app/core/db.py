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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
<% if cookiecutter.database == "mysql" %>
from functools import partial
<% endif %>
from typing import Any, Self, TypeVar, cast

<% if cookiecutter.database == "postgresql" %>
from asyncpg import InternalClientError, InvalidCachedStatementError
from sqlalchemy import URL, ExceptionContext, TextClause, event, text
<% else %>
import asyncmy
from sqlalchemy import URL, Connection, ExceptionContext, TextClause, event, text
<% endif %>
from sqlalchemy.exc import DBAPIError, MissingGreenlet, PendingRollbackError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import ORMExecuteState, Session
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
<% else %>
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    ConnectionPoolEntry,
    PoolProxiedConnection,
    PoolResetState,
)
<% endif %>
from sqlalchemy.util.concurrency import await_, greenlet_spawn, in_greenlet

logger = logging.getLogger(__name__)

# Quiet like SQLAlchemy's own pools, which have a line for each connection at INFO.
logging.getLogger(f"{__name__}.FairPool").setLevel(logging.WARNING)

T = TypeVar("T")

<% if cookiecutter.database == "postgresql" %>
MAX_CONNECTIONS = text(
    "SELECT current_setting('max_connections')::int"
    " - current_setting('superuser_reserved_connections')::int"
)

# Errors after which the same transaction may well succeed (SQLSTATE): serialization failure and
# deadlock.
CONFLICTS = {"40001", "40P01"}

# What a transaction says to whatever comes after an error, and to the end of a savepoint that the
# error has ended.
CONSEQUENCES = {"25P02", "3B001"}

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

# "SAVEPOINT … does not exist" follows from a deadlock, which ends savepoints as well.
NO_SUCH_NAME = 1305

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

# Seconds for a goodbye to the server at the end; what is open after that is closed without.
CLOSE_TIMEOUT = 2.0


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


def first_error(error: BaseException) -> BaseException:
    """Return the error behind SQLAlchemy's refusal to go on after one."""
    behind: BaseException | None = error
    while isinstance(error, PendingRollbackError) and behind is not None:
        behind = behind.__cause__ or behind.__context__
        if isinstance(behind, DBAPIError):
            return behind
    return error


def is_consequence(error: DBAPIError) -> bool:
    """Return whether the server refuses something because of an error before."""
<% if cookiecutter.database == "postgresql" %>
    return error_code(error) in CONSEQUENCES
<% else %>
    return error_code(error) == NO_SUCH_NAME and "SAVEPOINT" in str(error.orig)
<% endif %>


def is_conflict(error: BaseException) -> bool:
    """Return whether the same unit of work may well succeed when it is run again.

    Of tasks that failed together one is enough.
    """
    if isinstance(error, ExceptionGroup):
        return any(map(is_conflict, error.exceptions))
    error = first_error(error)
<% if cookiecutter.database == "postgresql" %>
    return isinstance(error, DBAPIError) and (error_code(error) in CONFLICTS or is_stale(error))


def is_stale(error: DBAPIError) -> bool:
    """Return whether another process's change of the schema made a prepared statement stale."""
    return any(isinstance(cause, InvalidCachedStatementError) for cause in causes(error.orig))
<% else %>
    return isinstance(error, DBAPIError) and error_code(error) in CONFLICTS
<% endif %>


class Opened:
    """That a session is open, or the like: of one task."""

    def __init__(self) -> None:
        self.outer: Opened | None = innermost_open()
        self.task = asyncio.current_task()
        _innermost.set(self)

    def close(self) -> None:
        """Say that it is over."""
        self.task = None


_innermost: ContextVar[Opened | None] = ContextVar("innermost", default=None)


def innermost_open() -> Opened | None:
    """Return the last of what this task has open."""
    opened, task = _innermost.get(), asyncio.current_task()
    while opened is not None and opened.task is not task:
        opened = opened.outer
    return opened


# What the unit of work that is run has committed before its end.
_committed: ContextVar[list[bool]] = ContextVar("committed")


def note_commit() -> None:
    """Say that something was committed: the unit of work it is in cannot be run again."""
    _committed.get([]).append(True)


async def retry_conflicts(
    unit: Callable[[], Awaitable[T]], *, repeatable: Callable[[], bool] = lambda: True
) -> T:
    """Run a whole unit of work, and again when it lost a conflict with another.

    `unit` begins its own transaction each time, as in `async with database.session()`. Raises
    what the last of `ATTEMPTS` runs raised, or the run after which `repeatable` says no, or that
    had committed a single statement before: it would be stored twice.
    """
    committed: list[bool] = []
    outside = _committed.set(committed), _innermost.set(None)
    try:
        for attempt in range(ATTEMPTS - 1):
            try:
                return await unit()
            except Exception as error:
                if not is_conflict(error) or committed or not repeatable():
                    raise
            await asyncio.sleep(random.uniform(0, BACKOFF * 2**attempt))
        return await unit()
    finally:
        _committed.reset(outside[0])
        _innermost.reset(outside[1])
        if committed:
            note_commit()


class FairPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool, with a line in front of it: first come, first served.

    Who wants a connection waits for a slot, the right to have one, open or still to be opened.
    There are as many slots as connections may be, so that the pool itself never has to wait; its
    own line lets newcomers overtake, and under load some clients starve.
    """

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 0,
        timeout: float = 30,
        **options: Any,
    ) -> None:
        super().__init__(creator, pool_size, max_overflow, timeout, **options)
        # Serves in the order of arrival, and loses no slot to a waiter that is cancelled.
        self._slots = asyncio.Semaphore(pool_size + max_overflow)

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out, for SQLAlchemy: engines and sessions come by this way."""
        await_(self._acquire_slot())
        try:
            return self._check_out()
        except BaseException:
            self._slots.release()
            raise

    async def acquire(self) -> PoolProxiedConnection:
        """Check a connection out, to be released.

        As `connect()` does it, but without the greenlet in which SQLAlchemy waits, which costs
        more than the rest. Raises `sqlalchemy.exc.TimeoutError` when none is free in time, and
        DBAPIError or DatabaseUnavailable when none can be opened.
        """
        await self._acquire_slot()
        try:
            # The usual case, in which nothing has to be waited for: one is open.
            if self.checkedin():
                with suppress(MissingGreenlet):
                    return self._check_out()
            return await greenlet_spawn(self._check_out)
        except BaseException:
            self._slots.release()
            raise

    async def release(self, connection: PoolProxiedConnection) -> None:
        """Check a connection in."""
        if self.checkedin() < self.size():
            connection.close()
        else:
            # One too many is closed in truth, which has to be waited for.
            await greenlet_spawn(connection.close)

    def terminate(self) -> None:
        """Close all connections that are checked in, without a goodbye to the server."""
        while self.checkedin():
            self._do_get().invalidate()

    async def _acquire_slot(self) -> None:
        """Wait in line. Raises `sqlalchemy.exc.TimeoutError`."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            text = f"No connection was free within {self._timeout} s"
            raise PoolTimeoutError(text) from None

    def _check_out(self) -> PoolProxiedConnection:
        """Take a connection into the slot that the caller has; name what prevents it."""
        try:
            connection = super().connect()
        except MissingGreenlet:
            raise
        except Exception as error:
            # Drivers fail in many ways at a server that goes away while a connection is opened.
            if not isinstance(error, OSError) and error_code(DBAPIError(None, None, error)):
                raise DBAPIError(None, None, error, connection_invalidated=True) from error
            reason = str(error) or type(error).__name__
            raise DatabaseUnavailable(f"The database cannot be reached: {reason}") from error
        # From here on the slot belongs to the connection, until the pool has it back.
        assert connection.record_info is not None
        connection.record_info["has_slot"] = True
        return connection

    def _do_get(self) -> ConnectionPoolEntry:
        """Take a connection; have it replaced when it is closed or still in a transaction.

        Asks the driver, not the server: no round trip, where `pool_pre_ping` takes up to three.
        """
        record = super()._do_get()
        driver: Any = record.driver_connection
<% if cookiecutter.database == "postgresql" %>
        if driver is not None and (driver.is_closed() or driver.is_in_transaction()):
<% else %>
        if driver is not None and (driver._stream_broken or driver.get_transaction_status()):
<% endif %>
            # Marked only: to close it takes a while, in which the record must not be ours alone.
            record.invalidate(soft=True)
        return record

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Take a connection back, and let the first in line have its slot."""
        try:
            super()._do_return_conn(record)
        finally:
            # A check-out that fails gives its record back as well, but its caller keeps the slot.
            assert record.record_info is not None
            if record.record_info.pop("has_slot", False):
                self._slots.release()


class OneTaskSession(Session):
    """The synchronous session that SQLAlchemy has inside of an `OwnedSession`."""


@event.listens_for(OneTaskSession, "do_orm_execute")
def refuse_strangers(state: ORMExecuteState) -> None:
    """Refuse what an object's attribute loads for another task."""
    refuse_other_tasks(state.session)


def refuse_other_tasks(session: Session) -> None:
    """Raise RuntimeError in any task but the one that opened the session, and after its end."""
    task = session.info["task"]
    if task is None:
        raise RuntimeError(
            "This session is over: its work is committed or rolled back. Open another one:"
            " `async with database.session() as session`."
        )
    if task is not asyncio.current_task():
        raise RuntimeError(
            "This session belongs to another task. Open one in each task:"
            " `async with database.session() as session`."
        )


class OwnedSession(AsyncSession):
    """A session of one task, which ends once. Any other use of it raises RuntimeError.

    Tasks that shared it would end each other's transaction. Used after its end it would begin
    again in silence, commit nothing, and keep a connection for good.
    """

    sync_session_class = OneTaskSession

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._owned: Session | None = None
        self._opened = Opened()
        super().__init__(*arguments, **options)
        assert self._owned is not None
        self._owned.info["task"] = asyncio.current_task()

    async def close(self) -> None:
        """End the session: what was not committed is rolled back."""
        if self._owned is not None:
            # SQLAlchemy closes it in a task of its own, which a cancellation cannot reach.
            self._owned.info["task"] = None
            self._opened.close()
            await greenlet_spawn(self._owned.close)

    def _get_session(self) -> Session:
        assert self._owned is not None
        refuse_other_tasks(self._owned)
        return self._owned

    def _set_session(self, session: Session) -> None:
        self._owned = session

    # By these two SQLAlchemy's own class comes to the session for whatever it is asked to do.
    sync_session = property(_get_session, _set_session)
    _proxied = property(_get_session, _set_session)


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
        connection: Any = await asyncmy.connect(**options)
    if options.get("ssl"):
        # Over TLS the driver does not tell MariaDB that it has a command for many rows, but sends
        # it: error 1295.
        connection._bulk_supported = False
    return connection


def begin(connection: Connection) -> None:
    """Begin a transaction, which the driver does by itself only without autocommit."""
    connection.exec_driver_sql("BEGIN")


def reset(dbapi_connection: Any, _: object, state: PoolResetState) -> None:
    """Roll back what was left open. The driver knows: no round trip where nothing was."""
    if not state.terminate_only and dbapi_connection.driver_connection.get_transaction_status():
        dbapi_connection.rollback()


<% endif %>
def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those behind it: SQLAlchemy's, its adapter's, the driver's."""
    while error is not None:
        yield error
        error = error.__cause__


<% if cookiecutter.database == "postgresql" %>
def is_lost(driver: Any, error: BaseException) -> bool:
    """Return whether an error means that the connection is over.

    It need not look it yet: the end of the connection arrives some time after the server's last
    words, and until then the driver is in a state that nothing leads out of.
    """
    return bool(driver.is_closed()) or any(
        isinstance(cause, InternalClientError | OSError | EOFError)
        or getattr(cause, "severity_en", None) in {"FATAL", "PANIC"}
        for cause in causes(error)
    )
<% else %>
def is_lost(driver: Any, error: BaseException) -> bool:
    """Return whether an error means that the connection is over, or out of step with the server."""
    return bool(driver._stream_broken) or any(
        isinstance(cause, asyncmy.errors.InternalError | OSError | EOFError)
        for cause in causes(error)
    )
<% endif %>


def open_in_greenlet(*_: object) -> None:
    """Refuse to open a connection where nothing can wait for it; `acquire` asks again."""
    if not in_greenlet():
        raise MissingGreenlet


def leave_lost_connection(context: ExceptionContext) -> DBAPIError | None:
    """Close a connection that an error has ended; give a driver's own error the usual class."""
    error = context.original_exception
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return None
    driver = connection.connection.driver_connection
    if not isinstance(error, Exception) or not is_lost(driver, error):
        return None
    context.is_disconnect = True
    # The others are looked at when they are checked out.
    context.invalidate_pool_on_disconnect = False
    if context.sqlalchemy_exception or isinstance(error, SQLAlchemyError | TimeoutError):
        return None
    return DBAPIError(context.statement, None, error, True, connection_invalidated=True)


def repeat_first_error(context: ExceptionContext) -> DBAPIError | None:
    """Raise a transaction's first error again where it is what another follows from.

    Its context cannot tell: to wait, SQLAlchemy leaves the place where an error is handled.
    """
    error, connection = context.sqlalchemy_exception, context.connection
    if connection is None or connection.closed or connection.invalidated:
        return None
    if not isinstance(error, DBAPIError):
        return None
    if is_consequence(error):
        return cast(DBAPIError | None, connection.info.get("first_error"))
    connection.info["first_error"] = error
    return None


def forget_first_error(_: object, record: ConnectionPoolEntry) -> None:
    """Let go of an error, and of all that it refers to, when its transaction is over."""
    record.info.pop("first_error", None)


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
        event.listen(self.engine.sync_engine, "do_connect", open_in_greenlet)
        event.listen(self.engine.sync_engine, "handle_error", leave_lost_connection)
        event.listen(self.engine.sync_engine, "handle_error", leave_read_only_server)
        event.listen(self.engine.sync_engine, "handle_error", repeat_first_error)
        event.listen(self.engine.sync_engine, "checkin", forget_first_error)
        self.sessions = async_sessionmaker(
            self.engine,
            class_=OwnedSession,
            # Once closed, it is refused also to who holds the synchronous session inside of it.
            close_resets_only=False,
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
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.engine.dispose()
        except TimeoutError:
            # Nobody answers any more, and each connection would wait for that by itself.
            self.pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Open a session: committed at the end of the block, rolled back on any error.

        Raises `sqlalchemy.exc.TimeoutError` when no connection is free within `pool_timeout`, and
        `DatabaseUnavailable` when none can be opened.
        """
        async with self.sessions() as session:
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
