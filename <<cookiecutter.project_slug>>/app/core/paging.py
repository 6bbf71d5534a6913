"""Lists, a page at a time: sorted as the client asks, each page after the last row of the one before.

By the values of that row, not by a count of rows to leave out: so a page costs the same wherever it
is, and rows that come or go meanwhile make no other row come twice or never.
"""

import base64
from collections.abc import Mapping
<% if cookiecutter.database == "postgresql" %>
from datetime import datetime, time
<% endif %>
from typing import Any, TypeVar

from fastapi import HTTPException
from pydantic import ConfigDict, TypeAdapter
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    Numeric,
    Result,
    Select,
    Time,
    and_,
    bindparam,
    false,
    inspect,
    or_,
)
<% else %>
from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    Double,
    Enum,
    Float,
    Numeric,
    Result,
    Select,
    and_,
    bindparam,
    false,
    inspect,
    or_,
)
from sqlalchemy.dialects.mysql import SET, TIME
<% endif %>
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ColumnProperty, InstrumentedAttribute
from sqlalchemy.types import TypeEngine

T = TypeVar("T")
Sortable = Mapping[str, InstrumentedAttribute[Any]]
NO_CURSOR = "after: not the `next` of a page"

<% if cookiecutter.database == "postgresql" %>
# Bytes need not be UTF-8, and JSON knows neither NaN nor infinity, which the server has and sorts.
CURSOR = ConfigDict(
    ser_json_bytes="base64",
    val_json_bytes="base64",
    ser_json_inf_nan="strings",
    allow_inf_nan=True,
)
<% else %>
# Bytes need not be UTF-8.
CURSOR = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
<% endif %>


async def list_page(
    session: AsyncSession,
    query: Select[T],
    *,
    sortable: Sortable,
    key: InstrumentedAttribute[Any],
    sort: str,
    after: str | None,
    limit: int,
) -> tuple[list[T], str | None]:
    """Return a page of models, and the cursor of the next page, None at the end.

    `query` selects a model, filtered as you like, without an order or a limit, and each row once:
    `.where(exists(…))` rather than a `.join()` that finds it several times. `sort`, such as
    `-placed_at,number`, is the client's: names out of `sortable`, a minus for descending. Rows
    without a value come last, and `key`, the primary key, decides between equals; so does what that
    consists of besides.

    Raises HTTPException 422 for another name, and for a cursor that is none or of another order;
<% if cookiecutter.database == "postgresql" %>
    TypeError for what is no column of the model, or a column whose values a cursor cannot hold.
<% else %>
    TypeError for what is no column of the model, or a column that MySQL compares otherwise than it
    sorts (an enum, a SET, a FLOAT: take DOUBLE), or whose values a cursor cannot hold (a FLOAT with
    `asdecimal=True`, a NUMERIC without, MySQL's own TIME).
<% endif %>
    """
    if query._order_by_clauses or query._has_row_limiting_clause:
        raise TypeError("A page has its own order and limit: leave out the query's")
    names = [name.removeprefix("-") for name in sort.split(",") if name]
    if not set(names) <= sortable.keys() or len(set(names)) < len(names):
        raise HTTPException(422, f"sort: some of {', '.join(sortable)}, each once, or with a minus")
    model = model_of(query)
    keys = keys_of(model, key)
    for column in (*sortable.values(), *keys):
        refuse_if_no_order(model, column)
    columns = [(sortable[name], f"-{name}" in sort.split(",")) for name in names]
    columns += [(column, False) for column in keys]
    # The values as the server has them: an object of the session's may be older.
    page = query.add_columns(*(column for column, _ in columns))
    for column, descending in columns:
        if is_nullable(column):
            page = page.order_by(column.is_(None))
        page = page.order_by(column.desc() if descending else column.asc())
    types: Any = tuple[(str, *(python_type(column) for column, _ in columns))]  # type: ignore[misc]
    cursor: TypeAdapter[tuple[Any, ...]] = TypeAdapter(types, config=CURSOR)
    if after is not None:
        values = read(cursor, after, sort)
        for (column, _), value in zip(columns, values, strict=True):
            check_value(column.type, value, session.get_bind().dialect)
        page = page.where(comes_after(columns, values))
    rows = rows_of(await session.execute(page.limit(limit + 1)), query)
    items = [row[0] for row in rows[:limit]]
    if len(rows) <= limit:
        return items, None
    last = (sort, *rows[limit - 1][-len(columns) :])
    return items, base64.urlsafe_b64encode(cursor.dump_json(last)).decode()


def model_of(query: Select[Any]) -> Any:
    """Return the model that a query selects, as SQLAlchemy knows it. Raises TypeError."""
    selected = query.column_descriptions[0]
    if selected["expr"] is not selected.get("entity"):
        raise TypeError("A page is of models: `select(Order)`, not of some columns")
    return inspect(selected["entity"])


def keys_of(model: Any, key: InstrumentedAttribute[Any]) -> list[InstrumentedAttribute[Any]]:
    """Return what decides between equals: the key, and what the primary key has besides."""
    of_table = model.mapper.primary_key
    names = [model.mapper.get_property_by_column(column).key for column in of_table]
    return [key, *(getattr(model.entity, name) for name in names if name != key.key)]


def refuse_if_no_order(model: Any, column: InstrumentedAttribute[Any]) -> None:
    """Raise TypeError for what no page can go on behind, also where nobody has asked for it yet."""
    found = getattr(column, "property", None)
    if not (isinstance(found, ColumnProperty) and isinstance(found.columns[0], Column)):
        raise TypeError(f"{column} cannot be sorted by: it is no column")
    if column.parent is not model and not (model.is_mapper and model.isa(column.parent)):
        raise TypeError(f"{column} cannot be sorted by: it is no column of {model}")
    if not is_comparable(column.type):
        raise TypeError(f"{column} cannot be sorted by: {column.type!r}")


def rows_of(found: Result[Any], query: Select[Any]) -> list[Any]:
    """Return the rows. Raises TypeError when one comes twice: the page would seem to be the last."""
    seen: list[int] = []

    def identity(row: Any) -> int:
        seen.append(id(row[0]))
        return seen[-1]

    rows = list(found.unique(identity))
    # A joined load of a collection repeats rows as well, but beyond the limit.
    if len(rows) < len(seen) and (query._setup_joins or len(query.column_descriptions) > 1):
        raise TypeError(
            "A join of the query repeats rows: write `.where(exists(…))` instead of `.join(…)`, and"
            " load collections by `selectinload`"
        )
    return rows


def is_comparable(type_: TypeEngine[Any]) -> bool:
    """Return whether the server compares values as it sorts them, and a cursor can hold them."""
    # SQLAlchemy cuts a float that it makes a decimal after its tenth place, and Python a decimal that
    # is made a float after its sixteenth digit.
    cut = isinstance(type_, Float | Numeric) and type_.asdecimal is isinstance(type_, Float)
<% if cookiecutter.database == "postgresql" %>
    return not cut and type_.python_type not in (object, dict, list)
<% else %>
    single = isinstance(type_, Float) and not isinstance(type_, Double)
    # Of a TIME that is more than a day, SQLAlchemy leaves out the days.
    odd = isinstance(type_, Enum | SET | TIME)
    return not (cut or single or odd or type_.python_type in (object, dict, list))
<% endif %>


def is_nullable(column: InstrumentedAttribute[Any]) -> bool:
    """Return whether a row may have no value in a column."""
    return bool(column.property.columns[0].nullable)


def python_type(column: InstrumentedAttribute[Any]) -> Any:
    """Return the type of a column's values."""
    known = column.type.python_type
    return known | None if is_nullable(column) else known


def read(cursor: TypeAdapter[tuple[Any, ...]], text: str, sort: str) -> list[Any]:
    """Return the values in a cursor. Raises HTTPException."""
    try:
        its_sort, *values = cursor.validate_json(base64.urlsafe_b64decode(text.encode()))
    except ValueError:
        raise HTTPException(422, NO_CURSOR) from None
    if its_sort != sort:
        raise HTTPException(422, "after: the `next` of a page in another order")
    return values


def check_value(type_: TypeEngine[Any], value: Any, dialect: Dialect) -> None:
    """Raise HTTPException for a value that no row can have had, as the driver would fail at it."""
<% if cookiecutter.database == "postgresql" %>
    zoned = type_.timezone if isinstance(type_, DateTime | Time) else None
    # Infinity has no zone: these two are what the driver gives for it.
    infinite = value in (datetime.min, datetime.max)
    if isinstance(value, datetime | time) and zoned is (value.tzinfo is None) and not infinite:
        raise HTTPException(422, NO_CURSOR)
<% else %>
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise HTTPException(422, NO_CURSOR)
<% endif %>
    process = type_.dialect_impl(dialect).bind_processor(dialect)
    try:
        # What becomes of it is of no use here, only whether it can, such as in UTC before year 1.
        if process is not None:
            process(value)
    except (ValueError, OverflowError):
        raise HTTPException(422, NO_CURSOR) from None


def comes_after(
    columns: list[tuple[InstrumentedAttribute[Any], bool]], values: list[Any]
) -> ColumnElement[bool]:
    """Return what is true of the rows behind the one with these values."""
    found: ColumnElement[bool] = false()
    for (column, descending), value in reversed(list(zip(columns, values, strict=True))):
        if value is None:
            # Only others without a value follow.
            found = and_(column.is_(None), found)
            continue
        last = bindparam(None, value, column.type, unique=True)
        behind = column < last if descending else column > last
        if is_nullable(column):
            behind = or_(behind, column.is_(None))
        # The first condition follows from the second, and is what an index can be read by.
        found = and_(or_(behind, column == last), or_(behind, and_(column == last, found)))
    return found
