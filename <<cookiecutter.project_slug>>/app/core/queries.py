"""Single statements as fast as the driver: compiled once, their rows become answers.

What is one statement, or a transaction of some, needs no identity map and no object: the row goes
straight into the model of the answer. Whatever is more, or wants objects, uses a session.

Works beside `db.py` in any project whose start puts `Queries` into `app.state.queries`. What it
rests on beyond SQLAlchemy's promises, `tests/test_queries.py` names.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar
from weakref import WeakKeyDictionary

<% if cookiecutter.database == "postgresql" %>
from asyncpg import InterfaceError, PostgresError
<% else %>
from asyncmy.errors import Error
<% endif %>
from fastapi import Depends, Request
from fastapi.requests import HTTPConnection
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.pool import PoolProxiedConnection

from .db import (
    READ_ONLY,
    Database,
    Opened,
    error_code,
    innermost_open,
    is_lost,
    note_commit,
)
from .deps import from_lifespan
from .plans import Plan, make_plan
from .statements import Create, Read, Statement, Update, refuse_listeners

__all__ = ["Create", "Queries", "QueriesDep", "Read", "Transaction", "TransactionDep", "Update"]

Model = TypeVar("Model")
T = TypeVar("T")

<% if cookiecutter.database == "postgresql" %>
DRIVER_ERRORS = (PostgresError, InterfaceError)


async def fetch(driver: Any, sql: str, arguments: Sequence[Any]) -> Any:
    """Return all rows of a statement."""
    return await driver.fetch(sql, *arguments)


async def execute(driver: Any, sql: str, arguments: Sequence[Any] = ()) -> int:
    """Run a statement without rows, and return how many it changed."""
    # Such as "UPDATE 1".
    _, _, count = (await driver.execute(sql, *arguments)).rpartition(" ")
    return int(count) if count.isdigit() else 0


<% else %>
DRIVER_ERRORS = (Error,)


class Watch:
    """Closes connections whose answer is overdue. It looks once a second.

    The driver keeps its limit by a task for each answer, and a timer for each takes long as well.
    """

    def __init__(self) -> None:
        self._until: dict[Any, float] = {}
        self._looking_in: asyncio.AbstractEventLoop | None = None

    def begin(self, driver: Any, limit: float) -> None:
        """Await an answer, for so many seconds and up to one more."""
        loop = asyncio.get_running_loop()
        if self._looking_in is not loop:
            self._looking_in = loop
            loop.call_later(1, self._look, loop)
        self._until[driver] = loop.time() + limit

    def end(self, driver: Any) -> None:
        """Note that the answer is there."""
        del self._until[driver]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for driver, until in self._until.items():
            if until < now:
                driver.close()
        if self._until:
            loop.call_later(1, self._look, loop)
        else:
            self._looking_in = None


watch = Watch()


async def run_cursor(driver: Any, sql: str, arguments: Sequence[Any] | None) -> Any:
    """Run a statement, and return the cursor that has its answer."""
    limit, driver._read_timeout = driver._read_timeout, None
    watch.begin(driver, limit)
    try:
        cursor = driver.cursor()
        await cursor.execute(sql, arguments)
        return cursor
    finally:
        watch.end(driver)
        driver._read_timeout = limit


async def fetch(driver: Any, sql: str, arguments: Sequence[Any]) -> Any:
    """Return all rows of a statement."""
    return await (await run_cursor(driver, sql, arguments)).fetchall()


async def execute(driver: Any, sql: str, arguments: Sequence[Any] | None = None) -> int:
    """Run a statement without rows, and return how many it found to change."""
    return int((await run_cursor(driver, sql, arguments)).rowcount)


async def insert(driver: Any, sql: str, arguments: Sequence[Any]) -> int:
    """Insert a row, and return the number that the server gave to it."""
    return int((await run_cursor(driver, sql, arguments)).lastrowid)


<% endif %>
class Connection:
    """A connection that was acquired from the pool, used by its driver's own means."""

    # How a transaction begins and ends.
    begin, commit, rollback = "BEGIN", "COMMIT", "ROLLBACK"

    def __init__(self, database: Database, plans: "Plans", pooled: PoolProxiedConnection) -> None:
        self._database = database
        self._plans = plans
        self._pooled = pooled
        # SQLAlchemy's own, which ECHO_SQL and the level of its name turn on.
        self._logger: Any = database.engine.sync_engine.logger

    async def run(self, statement: Statement[Any], values: Mapping[str, Any]) -> Any:
        """Return a statement's rows, or how many it changed. Raises what a session raises."""
<% if cookiecutter.database == "postgresql" %>
        try:
            return await self._run(statement, values)
        except Exception:
            await self._end_what_was_prepared()
            raise

    async def _run(self, statement: Statement[Any], values: Mapping[str, Any]) -> Any:
<% endif %>
        plan = await self._plan(statement, values)
        values = plan.complete(values)
        if isinstance(statement, Update):
            return await self._send(execute, plan, values)
<% if cookiecutter.database == "mysql" %>
        if plan.read is not None:
            last_id = await self._send(insert, plan, values)
            plan, values = plan.read, plan.key_of(values, last_id)
<% endif %>
        return plan.convert(await self._send(fetch, plan, values))

    async def command(self, sql: str) -> None:
        """Begin or end a transaction."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info(sql)
        await self._guard(sql, execute(self._pooled.driver_connection, sql))

    @property
    def is_usable(self) -> bool:
        """Return whether nothing has ended it."""
        return self._pooled.is_valid

    def invalidate(self) -> None:
        """Close it: what it was in the middle of must find nobody."""
        if self.is_usable:
            self._pooled.invalidate()

    async def release(self) -> None:
        """Give it back to the pool."""
        await self._database.pool.release(self._pooled)

    async def _plan(self, statement: Statement[Any], values: Mapping[str, Any]) -> Plan:
        plans = self._plans.get(statement)
        if plans is None:
            plans = self._plans[statement] = {}
        key = self._database, frozenset(values)
        plan = plans.get(key)
        if plan is None:
            refuse_listeners(statement, self._database.sessions)
<% if cookiecutter.database == "postgresql" %>
            dialect = self._database.engine.dialect
            plan = plans[key] = await make_plan(statement, values, dialect, self._describe)
<% else %>
            plan = plans[key] = make_plan(statement, values, self._database.engine.dialect)
<% endif %>
        return plan

<% if cookiecutter.database == "postgresql" %>
    async def _end_what_was_prepared(self) -> None:
        """End the transaction, with its locks, that a refused value leaves open on the server.

        The driver ends what it has prepared when it sends the values, and takes it as ended.
        """
        driver: Any = self._pooled.driver_connection
        if self.is_usable and not driver.is_in_transaction():
            # What fails here has closed the connection.
            with suppress(Exception):
                await self._guard("", execute(driver, ""))

    async def _describe(self, sql: str) -> list[int]:
        driver: Any = self._pooled.driver_connection
        prepared = await self._guard(sql, driver.prepare(sql))
        return [attribute.type.oid for attribute in prepared.get_attributes()]

<% endif %>
    async def _send(self, how: Any, plan: Plan, values: Mapping[str, Any]) -> Any:
        arguments = plan.arguments(values)
        if self._logger.isEnabledFor(logging.INFO):
            hidden = self._database.engine.sync_engine.hide_parameters
            self._logger.info("%s %s", plan.sql, "[values hidden]" if hidden else arguments)
        return await self._guard(plan.sql, how(self._pooled.driver_connection, plan.sql, arguments))

    async def _guard(self, sql: str, answer: Awaitable[T]) -> T:
        """Wait for an answer. After an error, keep the connection only if it is still good."""
        try:
            return await answer
        except Exception as cause:
            driver = self._pooled.driver_connection
            lost, known = is_lost(driver, cause), isinstance(cause, DRIVER_ERRORS)
            error = DBAPIError(sql, None, cause, True, connection_invalidated=lost)
            if lost or not known or error_code(error) in READ_ONLY:
                self.invalidate()
            if isinstance(cause, TimeoutError) or not (lost or known):
                raise
            raise error from cause
        except BaseException:
            # Cancelled: the answer may still come. It must find nobody.
            self.invalidate()
            raise


# By the names of the values that are given.
Plans = WeakKeyDictionary[Statement[Any], dict[tuple[Database, frozenset[str]], Plan]]


class Executor(ABC):
    """What runs statements; how it reads and writes, each kind says."""

    async def all(self, read: Read[Model], **values: Any) -> list[Model]:
        """Return all rows. Raises what a session raises: DBAPIError, or that of a full pool."""
        return read.rows.validate_python(await self._read(read, values))

    async def first(self, read: Read[Model], **values: Any) -> Model | None:
        """Return the first row, or None. Raises what a session raises."""
        rows = await self.all(read, **values)
        return rows[0] if rows else None

    async def create(self, create: Create[Model], **values: Any) -> Model:
        """Store a row and return it as it was stored. Raises what a session raises."""
        [row] = create.rows.validate_python(await self._write(create, values))
        return row

    async def execute(self, update: Update, **values: Any) -> int:
        """Change rows, and return how many were found. Raises what a session raises."""
        count: int = await self._write(update, values)
        return count

    @abstractmethod
    def _read(self, statement: Read[Any], values: Mapping[str, Any]) -> Awaitable[Any]: ...

    @abstractmethod
    def _write(self, statement: Statement[Any], values: Mapping[str, Any]) -> Awaitable[Any]: ...


class Queries(Executor):
    """Runs statements, each by itself: reads on a replica if there is one. Begins transactions.

    They share the pool of the database's sessions.
    """

    def __init__(self, database: Database, replica: Database) -> None:
        self._database = database
        self._replica = replica
        self._plans: Plans = WeakKeyDictionary()

<% if cookiecutter.database == "mysql" %>
    async def create(self, create: Create[Model], **values: Any) -> Model:
        """Store a row and return it as it was stored. Raises what a session raises."""
        # MySQL has no INSERT … RETURNING as MariaDB has: it takes two statements.
        if not getattr(self._database.engine.dialect, "insert_returning", False):
            async with self.begin() as transaction:
                return await transaction.create(create, **values)
        return await super().create(create, **values)

<% endif %>
    def begin(self) -> "Transaction":
        """Return a transaction: `async with queries.begin() as transaction`."""
        return Transaction(lambda: self._acquire(self._database))

    async def ping(self) -> None:
        """Raise what a request would get now, from the database or its replica."""
        await self._database.ping()
        if self._replica is not self._database:
            await self._replica.ping()

    def _read(self, statement: Read[Any], values: Mapping[str, Any]) -> Awaitable[Any]:
        if statement.locks:
            raise TypeError("The lock would end at once: read it in a transaction, by `begin()`")
        return self._run(self._replica, statement, values)

    async def _write(self, statement: Statement[Any], values: Mapping[str, Any]) -> Any:
        refuse_beside_another()
        answer = await self._run(self._database, statement, values)
        note_commit()
        return answer

    async def _run(
        self, database: Database, statement: Statement[Any], values: Mapping[str, Any]
    ) -> Any:
        values = statement.prepare(values)
        connection = await self._acquire(database)
        try:
            return await connection.run(statement, values)
        finally:
            await connection.release()

    async def _acquire(self, database: Database) -> Connection:
        return Connection(database, self._plans, await database.pool.acquire())


class Transaction(Executor):
    """Statements on one connection, committed together at the end of the block.

    Rolled back after any error, of a statement too that somebody else has caught. It begins with
    its first statement, and is of one task: other uses raise RuntimeError.
    """

    def __init__(self, acquire: Callable[[], Awaitable[Connection]]) -> None:
        self._acquire = acquire
        self._opened: Opened | None = None
        self._connection: Connection | None = None
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        refuse_beside_another()
        self._opened = Opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._opened is not None
        self._opened.close()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if error is None and self._error is None:
                await connection.command(connection.commit)
                note_commit()
            elif isinstance(error, Exception | None) and connection.is_usable:
                # What fails here has closed the connection, which rolls back as well.
                with suppress(Exception):
                    await connection.command(connection.rollback)
            else:
                connection.invalidate()
        finally:
            await connection.release()
        if error is None:
            self._refuse_after_error()

    async def _run(self, statement: Statement[Any], values: Mapping[str, Any]) -> Any:
        if self._opened is None or self._opened.task is not asyncio.current_task():
            raise RuntimeError(
                "A transaction is used by the task that opened it, and within its block only:"
                " `async with queries.begin() as transaction`."
            )
        self._refuse_after_error()
        values = statement.prepare(values)
        try:
            if self._connection is None:
                self._connection = await self._acquire()
                await self._connection.command(self._connection.begin)
            return await self._connection.run(statement, values)
        except BaseException as error:
            self._error = error
            raise

    _read = _write = _run

    def _refuse_after_error(self) -> None:
        if self._error is not None:
            raise PendingRollbackError(
                f"This transaction was rolled back after an error: {self._error}"
            ) from self._error


def refuse_beside_another() -> None:
    """Raise RuntimeError for a write of its own beside an open session or transaction.

    It would be committed by itself: twice when the other one is run again after a conflict, and
    even when that is rolled back.
    """
    if innermost_open() is not None:
        raise RuntimeError(
            "This would be committed by itself, while a session or transaction is open here:"
            " write by that one too."
        )


async def get_queries(connection: HTTPConnection) -> Queries:
    """Return what runs single statements, without a session."""
    queries: Queries = from_lifespan(connection, "queries")
    return queries


QueriesDep = Annotated[Queries, Depends(get_queries)]


async def get_transaction(request: Request, queries: QueriesDep) -> Transaction:
    """Open the request's transaction: committed when all went well, rolled back on any error.

    As with a session, the commit comes before the response: FastAPI closes this stack in between.
    A `yield` and scope="function" would do the same, but take as long as a statement.
    """
    stack: AsyncExitStack = request.scope["fastapi_function_astack"]
    return await stack.enter_async_context(queries.begin())


TransactionDep = Annotated[Transaction, Depends(get_transaction)]
