"""A connection as `queries.py` uses it: by its driver's own means, without SQLAlchemy's."""

<% if cookiecutter.database == "mysql" %>
import asyncio
<% endif %>
import logging
from collections.abc import Awaitable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

<% if cookiecutter.database == "postgresql" %>
from asyncpg import InterfaceError, PostgresError
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
<% else %>
from asyncmy.errors import Error
<% endif %>
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.pool import PoolProxiedConnection

from .db import Database
from .plans import Plan, make_plan
<% if cookiecutter.database == "postgresql" %>
from .server_errors import READ_ONLY, NotStored, error_code, is_lost, is_stale
from .statements import Create, Statement, Update, refuse_listeners
<% else %>
from .server_errors import READ_ONLY, error_code, is_lost
from .statements import Statement, Update, refuse_listeners
from .values import fit
<% endif %>

T = TypeVar("T")

<% if cookiecutter.database == "postgresql" %>
DRIVER_ERRORS = (PostgresError, InterfaceError)

# Ends a transaction of which only the server knows.
END = "SELECT"


async def end_what_was_prepared(driver: Any) -> None:
    """End the transaction, with its locks, in which the server is once it has prepared a statement.

    The driver knows nothing of it, and ends it when it sends the values: it need not come to that.
    """
    if not driver.is_in_transaction():
        await driver.execute(END)


def fetch(driver: Any, sql: str, arguments: Sequence[Any]) -> Awaitable[Any]:
    """Return all rows of a statement."""
    rows: Awaitable[Any] = driver.fetch(sql, *arguments)
    return rows


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
def as_for_sessions(dialect: Any, sql: str, error: Exception, *, lost: bool) -> DBAPIError:
    """Return a driver's error in the class in which SQLAlchemy raises it for a session."""
<% if cookiecutter.database == "postgresql" %>
    try:
        AsyncAdapt_asyncpg_connection._handle_exception_no_connection(dialect.dbapi, error)
    except Exception as adapted:
        error = adapted
<% endif %>
    wrapped = DBAPIError.instance(
        sql,
        None,
        error,
        # Whatever kind it is, this has the usual base.
        Exception,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=dialect,
    )
    return cast(DBAPIError, wrapped)


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
        plans = self._plans.get(statement)
        if plans is None:
            plans = self._plans[statement] = {}
        key = self._database, frozenset(values)
        plan = plans.get(key)
<% if cookiecutter.database == "postgresql" %>
        if plan is None or not plan.sql.endswith(self._database.ending.text):
<% else %>
        if plan is None:
<% endif %>
            plan = plans[key] = await self._make_plan(statement, values)
        values = plan.complete(values)
        if isinstance(statement, Update):
            return await self._send(execute, plan, values)
<% if cookiecutter.database == "mysql" %>
        if (read := plan.read) is not None:
            last_id = await self._send(insert, plan, values)
            found = await self._send(fetch, read, read.complete(plan.key_of(values, last_id)))
            if not found:
                # Such as a text with spaces at the end, or a time with fractions that it has not.
                raise LookupError(f"The key that was given is stored as another one: {read.sql}")
            return read.convert(found)
<% endif %>
<% if cookiecutter.database == "postgresql" %>
        rows = plan.convert(await self._send(fetch, plan, values))
        if isinstance(statement, Create) and not rows:
            raise NotStored(f"A trigger has left out the row: {plan.sql}")
        return rows
<% else %>
        return plan.convert(await self._send(fetch, plan, values))
<% endif %>

    async def command(self, sql: str) -> None:
        """Begin or end a transaction."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info(sql)
        await self._guard(sql, self._told(sql, execute(self._pooled.driver_connection, sql)))

    @property
    def is_usable(self) -> bool:
        """Return whether nothing has ended it."""
        return self._pooled.is_valid

    def invalidate(self) -> None:
        """Close it: what it was in the middle of must find nobody."""
        if self.is_usable:
            self._pooled.invalidate()

    def release(self) -> Awaitable[None]:
        """Give it back to the pool."""
        return self._database.pool.release(self._pooled)

    async def _make_plan(self, statement: Statement[Any], values: Mapping[str, Any]) -> Plan:
        refuse_listeners(statement, self._database.sessions)
        dialect = self._database.engine.dialect
<% if cookiecutter.database == "postgresql" %>
        ending = self._database.ending.text
        return await make_plan(statement, values, dialect, ending, self._describe)

    async def _describe(self, sql: str) -> list[int]:
        driver: Any = self._pooled.driver_connection
        prepared = await self._guard(sql, self._told(f"PREPARE {sql}", driver.prepare(sql)))
        codes = [attribute.type.oid for attribute in prepared.get_attributes()]
        await self._guard(END, end_what_was_prepared(driver))
        return codes

<% else %>
        return make_plan(statement, values, dialect)

<% endif %>
    def _send(self, how: Any, plan: Plan, values: Mapping[str, Any]) -> Awaitable[Any]:
        try:
            arguments = plan.arguments(values)
        except Exception as error:
            # A type that refuses a value. SQLAlchemy names the error so.
            reason = f"({type(error).__module__}.{type(error).__name__}) {error}"
            raise StatementError(reason, plan.sql, None, error, hide_parameters=True) from error
<% if cookiecutter.database == "mysql" %>
        arguments = [fit(plan.sql, value) for value in arguments]
<% endif %>
        if self._logger.isEnabledFor(logging.INFO):
            hidden = self._database.engine.sync_engine.hide_parameters
            self._logger.info("%s %s", plan.sql, "[values hidden]" if hidden else arguments)
        answer = how(self._pooled.driver_connection, plan.sql, arguments)
        return self._guard(plan.sql, self._told(plan.sql, answer))

    def _told(self, sql: str, answer: Awaitable[T]) -> Awaitable[T]:
        """Tell whoever listens to statements of this one."""
        listener = self._database.on_statement
        return answer if listener is None else self._tell(listener, sql, answer)

    async def _tell(self, listener: Any, sql: str, answer: Awaitable[T]) -> T:
        began, error = monotonic(), None
        try:
            return await answer
        except BaseException as raised:
            error = raised
            raise
        finally:
            listener(sql, self._pooled, monotonic() - began, error)

    async def _guard(self, sql: str, answer: Awaitable[T]) -> T:
        """Wait for an answer. After an error, keep the connection only if it is still good."""
        try:
            return await answer
        except Exception as cause:
            driver = self._pooled.driver_connection
            lost, known = is_lost(driver, cause), isinstance(cause, DRIVER_ERRORS)
            error = as_for_sessions(self._database.engine.dialect, sql, cause, lost=lost)
            if lost or not known or error_code(error) in READ_ONLY:
                self.invalidate()
<% if cookiecutter.database == "postgresql" %>
            elif is_stale(error):
                self._database.ending.change(sql)
            elif getattr(cause, "severity", None) is None:
                # The driver itself refused a value.
                try:
                    await end_what_was_prepared(driver)
                except Exception:
                    self.invalidate()
<% endif %>
            if isinstance(cause, TimeoutError) or not (lost or known):
                raise
            raise error from error.orig
        except BaseException:
            # Cancelled: the answer may still come. It must find nobody.
            self.invalidate()
            raise


# By the names of the values that are given.
Plans = WeakKeyDictionary[Statement[Any], dict[tuple[Database, frozenset[str]], Plan]]
