"""Single statements as fast as the driver: compiled once, their rows become answers.

What is one statement, or a transaction of some, needs no identity map and no object: the row goes
straight into the model of the answer. Whatever is more, or wants objects, uses a session.

Works beside `db.py` in any project whose start puts `Queries` into `app.state.queries`. What it
rests on beyond SQLAlchemy's promises, `tests/test_queries.py` names.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar
from weakref import WeakKeyDictionary

from fastapi import Depends, Request
from fastapi.requests import HTTPConnection
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.exc import DBAPIError, PendingRollbackError
<% else %>
from sqlalchemy.exc import PendingRollbackError
<% endif %>

from .db import Database
from .deps import from_lifespan
from .driver import Connection, Plans
from .replica import Replica
from .retries import Opened, innermost_open, note_commit
<% if cookiecutter.database == "postgresql" %>
from .server_errors import is_stale
<% endif %>
from .statements import Create, Read, Statement, Update

__all__ = ["Create", "Queries", "QueriesDep", "Read", "Transaction", "TransactionDep", "Update"]

Model = TypeVar("Model")


class Executor(ABC):
    """What runs statements; how it reads and writes, each kind says."""

    async def all(self, read: Read[Model], /, **values: Any) -> list[Model]:
        """Return all rows. Raises what a session raises: DBAPIError, or that of a full pool."""
        return read.rows.validate_python(await self._read(read, values))

    async def first(self, read: Read[Model], /, **values: Any) -> Model | None:
        """Return the first row, or None. Raises what a session raises."""
        rows = read.rows.validate_python(await self._read(read, values))
        return rows[0] if rows else None

    async def create(self, create: Create[Model], /, **values: Any) -> Model:
        """Store a row and return it as it was stored. Raises what a session raises."""
        [row] = create.rows.validate_python(await self._write(create, values))
        return row

    async def execute(self, update: Update, /, **values: Any) -> int:
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

    def __init__(self, database: Database, replica: Replica | None = None) -> None:
        self._database = database
        self._replica = replica
        self._plans: Plans = WeakKeyDictionary()

<% if cookiecutter.database == "mysql" %>
    async def create(self, create: Create[Model], /, **values: Any) -> Model:
        """Store a row and return it as it was stored. Raises what a session raises."""
        # MySQL has no INSERT … RETURNING as MariaDB has: it takes two statements.
        if not getattr(self._database.engine.dialect, "insert_returning", False):
            async with self.begin() as transaction:
                return await transaction.create(create, **values)
        return await super().create(create, **values)

<% endif %>
    def begin(self) -> "Transaction":
        """Return a transaction: `async with queries.begin() as transaction`."""
        return Transaction(self._database, lambda: self._acquire(self._database))

    @property
    def lacks_replica(self) -> bool:
        """Return whether all reads go to the primary, since its replica is away or behind."""
        return self._replica is not None and not self._replica.is_current

    def _read(self, statement: Read[Any], values: Mapping[str, Any]) -> Awaitable[Any]:
        if statement.locks:
            raise TypeError("The lock would end at once: read it in a transaction, by `begin()`")
<% if cookiecutter.database == "postgresql" %>
        if statement.writes:
            return self._write(statement, values)
<% endif %>
        if self._replica is not None and self._replica.is_current:
            return self._read_on(self._replica, statement, values)
        return self._run(self._database, statement, values)

    async def _read_on(
        self, replica: Replica, statement: Read[Any], values: Mapping[str, Any]
    ) -> Any:
        try:
            return await self._run(replica.database, statement, values)
        except Exception as error:
            if not replica.leave(error):
                raise
        return await self._run(self._database, statement, values)

    async def _write(self, statement: Statement[Any], values: Mapping[str, Any]) -> Any:
        refuse_beside_another()
        answer = await self._run(self._database, statement, values)
        note_commit()
        await self._database.after_commit()
        return answer

    async def _run(
        self, database: Database, statement: Statement[Any], values: Mapping[str, Any]
    ) -> Any:
        values = statement.prepare(values)
        connection = await self._acquire(database)
        try:
            return await connection.run(statement, values)
<% if cookiecutter.database == "postgresql" %>
        except DBAPIError as error:
            if not is_stale(error):
                raise
            # It has done nothing, and its text is another one now.
            return await connection.run(statement, values)
<% endif %>
        finally:
            await connection.release()

    async def _acquire(self, database: Database) -> Connection:
        return Connection(database, self._plans, await database.pool.acquire())


class Transaction(Executor):
    """Statements on one connection, committed together at the end of the block.

    Rolled back after any error, of a statement too that somebody else has caught. It begins with
    its first statement, and is of one task: other uses raise RuntimeError.
    """

    def __init__(self, database: Database, acquire: Callable[[], Awaitable[Connection]]) -> None:
        self._database = database
        self._acquire = acquire
        self._opened: Opened | None = None
        self._connection: Connection | None = None
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        refuse_beside_another()
        self._opened = Opened(partial(self.__aexit__, None, GeneratorExit(), None))
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
            await self._database.after_commit()

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
