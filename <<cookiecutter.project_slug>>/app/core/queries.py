"""Single statements as fast as the driver: compiled once, their rows become answers.

What is one statement needs no transaction around it, no identity map and no object: the row goes
straight into the model of the answer. Whatever is more, or wants objects, uses a session.

Works beside `db.py` in any project whose start puts `Queries` into `app.state.queries`. What it
rests on beyond SQLAlchemy's promises, `tests/test_queries.py` names.
"""

<% if cookiecutter.database == "mysql" %>
import asyncio
<% endif %>
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

<% if cookiecutter.database == "postgresql" %>
from asyncpg import InterfaceError, PostgresError
<% else %>
from asyncmy.errors import Error
<% endif %>
from fastapi import Depends
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, TypeAdapter
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import Dialect, Select, insert
<% else %>
from sqlalchemy import Dialect, Select, func, insert, inspect
<% endif %>
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase

from .db import READ_ONLY, Database, error_code, is_lost
from .deps import from_lifespan

# Where SQLAlchemy itself logs statements, when asked to.
logger = logging.getLogger("sqlalchemy.engine.Engine")

Model = TypeVar("Model", bound=BaseModel)

# Turns a value of Python into one of the driver, or back.
Processor = Callable[[Any], Any]


class Query(Generic[Model]):
    """What is run, and the model that each row becomes. Made once, at the top of a module."""

    def __init__(self, model: type[Model], *statements: Any, given: Sequence[str] = ()) -> None:
        self.rows = TypeAdapter(list[model])  # type: ignore[valid-type]
        self.statements = statements
        self.given = given


class Read(Query[Model]):
    """A SELECT of columns. Values that change are `bindparam("name")`."""

    def __init__(self, model: type[Model], statement: Select[*tuple[Any, ...]]) -> None:
        super().__init__(model, statement)


class Create(Query[Model]):
    """An INSERT of one row with values for the columns `given`, which is then read by `read`."""

    def __init__(
        self,
        model: type[Model],
        table: type[DeclarativeBase],
        given: Sequence[str],
        read: Select[*tuple[Any, ...]],
    ) -> None:
<% if cookiecutter.database == "postgresql" %>
        row = insert(table).returning(*read.selected_columns)
        super().__init__(model, row, given=given)
<% else %>
        # MySQL has no INSERT … RETURNING: the row is read by the id that the connection was given.
        [key] = inspect(table).primary_key
        row = read.where(key == func.last_insert_id())
        super().__init__(model, insert(table), row, given=given)
<% endif %>


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement as the driver takes it."""

    sql: str
    parameters: Sequence[tuple[str, Processor | None]]
    # What stands in the statement itself, as in `column == 1`.
    constants: Mapping[str, Any]
    names: Sequence[str]
    # Only the columns whose values the driver gives in another form than SQLAlchemy.
    processors: Sequence[tuple[str, Processor]]

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of the statement. Raises KeyError when one is missing."""
        if self.constants:
            values = {**self.constants, **values}
        return [
            values[name] if processor is None else processor(values[name])
            for name, processor in self.parameters
        ]

    def convert(self, row: Iterable[Any]) -> dict[str, Any]:
        """Return a row by the names of its columns."""
        values = dict(zip(self.names, row, strict=True))
        for name, processor in self.processors:
            values[name] = processor(values[name])
        return values


<% if cookiecutter.database == "postgresql" %>
DRIVER_ERRORS = (PostgresError, InterfaceError)


async def fetch(driver: Any, sql: str, arguments: Sequence[Any]) -> Sequence[Iterable[Any]]:
    """Return all rows of a statement."""
    rows: Sequence[Iterable[Any]] = await driver.fetch(sql, *arguments)
    return rows


<% else %>
DRIVER_ERRORS = (Error,)


async def fetch(driver: Any, sql: str, arguments: Sequence[Any]) -> Sequence[Iterable[Any]]:
    """Return all rows of a statement."""
    # The driver keeps its limit by a task for each answer, which takes as long as the answer
    # itself; a timer that closes the connection does the same.
    limit, driver._read_timeout = driver._read_timeout, None
    timer = asyncio.get_running_loop().call_later(limit, driver.close)
    try:
        cursor = driver.cursor()
        await cursor.execute(sql, arguments)
        rows: Sequence[Iterable[Any]] = await cursor.fetchall()
        return rows
    finally:
        timer.cancel()
        driver._read_timeout = limit


<% endif %>
async def make_plan(query: Query[Any], statement: Any, dialect: Dialect, driver: Any) -> Plan:
    """Compile a statement, with the conversions that its types ask for.

    Raises ValueError for a statement whose text depends on its values, such as `column.in_(…)`:
    that needs a session.
    """
    compiled = statement.compile(dialect=dialect, column_keys=query.given)
    if "POSTCOMPILE" in compiled.string:
        raise ValueError(f"The text of this statement depends on its values:\n{statement}")
    binds = {name: compiled.binds[name] for name in compiled.positiontup}
    parameters = [
        (name, binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        for name in compiled.positiontup
    ]
    constants = {name: bind.value for name, bind in binds.items() if not bind.required}
    columns = statement.exported_columns
<% if cookiecutter.database == "postgresql" %>
    # Some conversions depend on what the server calls the type.
    attributes = (await driver.prepare(compiled.string)).get_attributes()
    codes = [attribute.type.oid for attribute in attributes]
<% else %>
    # No conversion of this dialect asks what the server calls the type.
    codes = [None] * len(columns)
<% endif %>
    processors = []
    for column, code in zip(columns, codes, strict=True):
        if processor := column.type.dialect_impl(dialect).result_processor(dialect, code):
            processors.append((column.key, processor))
    return Plan(compiled.string, parameters, constants, columns.keys(), processors)


class Queries:
    """Runs queries, each by itself, outside of any transaction: reads on a replica if there is one.

    They share the pool of the database's sessions.
    """

    def __init__(self, database: Database, replica: Database) -> None:
        self._database = database
        self._replica = replica
        self._plans: dict[Query[Any], list[Plan]] = {}

    async def all(self, read: Read[Model], **values: Any) -> list[Model]:
        """Return all rows. Raises what a session raises: DBAPIError, or that of a full pool."""
        return read.rows.validate_python(await self._run(self._replica, read, values))

    async def first(self, read: Read[Model], **values: Any) -> Model | None:
        """Return the first row, or None. Raises what a session raises."""
        rows = await self.all(read, **values)
        return rows[0] if rows else None

    async def create(self, create: Create[Model], **values: Any) -> Model:
        """Store a row and return it as it was stored. Raises what a session raises."""
        [row] = create.rows.validate_python(await self._run(self._database, create, values))
        return row

    async def ping(self) -> None:
        """Raise what a request would get now, from the database or its replica."""
        await self._database.ping()
        if self._replica is not self._database:
            await self._replica.ping()

    async def _run(
        self, database: Database, query: Query[Any], values: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        borrowed = await database.pool.acquire()
        driver = borrowed.driver_connection
        sql = None
        try:
            plans = self._plans.get(query)
            if plans is None:
                plans = [
                    await make_plan(query, statement, database.engine.dialect, driver)
                    for statement in query.statements
                ]
                self._plans[query] = plans
            for plan in plans:
                sql = plan.sql
                arguments = plan.arguments(values)
                if database.engine.echo:
                    logger.info("%s %r", plan.sql, arguments)
                rows = await fetch(driver, plan.sql, arguments)
            return [plan.convert(row) for row in rows]
        except Exception as cause:
            lost, known = is_lost(driver, cause), isinstance(cause, DRIVER_ERRORS)
            error = DBAPIError(sql, None, cause, True, connection_invalidated=lost)
            if lost or not known or error_code(error) in READ_ONLY:
                borrowed.invalidate()
            if isinstance(cause, TimeoutError) or not (lost or known):
                raise
            raise error from cause
        except BaseException:
            # Cancelled: the answer may still come. It must find nobody.
            borrowed.invalidate()
            raise
        finally:
            await database.pool.release(borrowed)


async def get_queries(connection: HTTPConnection) -> Queries:
    """Return what runs single statements, without a session."""
    queries: Queries = from_lifespan(connection, "queries")
    return queries


QueriesDep = Annotated[Queries, Depends(get_queries)]
