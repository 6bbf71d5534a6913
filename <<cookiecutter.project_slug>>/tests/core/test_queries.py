"""Single statements on the driver's connection give what a session gives: types, errors, limits.

What they rest on that SQLAlchemy does not promise to keep:

- a pool's `connect()` waits for nothing when a connection is free, and outside of a greenlet can
  open none: `test_a_checkout_opens_what_is_missing`;
- `compiled.positiontup` names the parameters in order, `compiled.binds` has their types, and types
  convert by `bind_processor` and `result_processor`: `test_types_come_back_as_from_a_session`.
"""

import asyncio
import enum
import logging
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import (
<% if cookiecutter.database == "postgresql" %>
    ARRAY,
<% endif %>
    JSON,
<% if cookiecutter.database == "postgresql" %>
    DateTime,
<% endif %>
    Enum,
<% if cookiecutter.database == "postgresql" %>
    Integer,
<% endif %>
    Interval,
    Numeric,
    String,
    Uuid,
    bindparam,
    func,
    select,
<% if cookiecutter.database == "postgresql" %>
    text,
<% endif %>
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.core.db import Database, error_code
from app.core.queries import Create, Queries, Read, Update
<% if cookiecutter.database == "postgresql" %>
from app.core.retries import retry_conflicts
<% endif %>
<% if cookiecutter.database == "mysql" %>
from app.models.base import UTCDateTime
<% endif %>
from tests.core.conftest import be_impatient, started, tables_of
from tests.core.people import PERSON
from tests.core.tables import Person, PersonRead


class Colour(enum.Enum):
    """Stored by name, which is not its value."""

    RED = "#f00"


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""


class Thing(Apart):
    """One column for each type that may come back in another form."""

    __tablename__ = "_test_things"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[uuid.UUID] = mapped_column(Uuid)
    colour: Mapped[Colour] = mapped_column(Enum(Colour))
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    share: Mapped[float] = mapped_column(Numeric(10, 4, asdecimal=False))
    weight: Mapped[float]
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    day: Mapped[date]
    hour: Mapped[time]
    period: Mapped[timedelta] = mapped_column(Interval)
    flag: Mapped[bool]
    data: Mapped[bytes]
<% if cookiecutter.database == "postgresql" %>
    moment: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))
<% else %>
    moment: Mapped[datetime] = mapped_column(UTCDateTime)
<% endif %>


class ThingRow(BaseModel):
    """The values just as they came back."""

    id: Any
    key: Any
    colour: Any
    price: Any
    share: Any
    weight: Any
    document: Any
    day: Any
    hour: Any
    period: Any
    flag: Any
    data: Any
    moment: Any
<% if cookiecutter.database == "postgresql" %>
    numbers: Any
<% endif %>


VALUES = {
    "key": uuid.UUID(int=5),
    "colour": Colour.RED,
    "price": Decimal("12.50"),
    "share": 0.125,
    "weight": 1.5,
    "document": {"a": [1, None, "ü"]},
    "day": date(2026, 1, 2),
    "hour": time(3, 4, 5),
    "period": timedelta(days=1, seconds=5),
    "flag": True,
    "data": b"\x00\xff",
    "moment": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
<% if cookiecutter.database == "postgresql" %>
    "numbers": [1, 2],
<% endif %>
}
THING = select(*Thing.__table__.columns)
CREATE_THING = Create(ThingRow, Thing, THING)
THINGS = Read(ThingRow, THING.where(Thing.key == bindparam("key"), Thing.day == bindparam("day")))

PERSON_BY_EMAIL = Read(PersonRead, PERSON.where(Person.email == bindparam("email")))
RENAME = Update(update(Person).where(Person.id == bindparam("person_id")))


@pytest.fixture
async def things(database: Database) -> AsyncIterator[Queries]:
    """Make the table of things, for one test."""
    async with tables_of(Apart.metadata, database):
        yield Queries(database)


async def test_types_come_back_as_from_a_session(database: Database, things: Queries) -> None:
    created = await things.create(CREATE_THING, **VALUES)
    [read] = await things.all(THINGS, key=VALUES["key"], day=VALUES["day"])
    async with database.session() as session:
        [thing] = await session.scalars(select(Thing))

    assert created == read
    for name, value in VALUES.items():
        assert getattr(read, name) == getattr(thing, name) == value
        assert type(getattr(read, name)) is type(getattr(thing, name))


<% if cookiecutter.database == "postgresql" %>
# As a revision does it that takes a member away.
TYPE_ANEW = """DO $$ BEGIN
    ALTER TYPE colour RENAME TO old_colour;
    CREATE TYPE colour AS ENUM ('RED');
    ALTER TABLE _test_things ALTER colour TYPE colour USING colour::text::colour;
    DROP TYPE old_colour;
END $$"""


@pytest.mark.parametrize("change", [TYPE_ANEW, "DEALLOCATE ALL"])
@pytest.mark.parametrize("way", ["alone", "session"])
async def test_what_was_prepared_may_be_gone(things: Queries, change: str, way: str) -> None:
    async with started(pool_size=1) as (_, database):
        queries = Queries(database)

        async def create() -> None:
            if way == "alone":
                await queries.create(CREATE_THING, **VALUES)
            else:
                async with database.session() as session:
                    session.add(Thing(**VALUES))

        await create()
        async with database.session() as session:
            await session.execute(text(change))
        await retry_conflicts(create)
        assert len(await queries.all(THINGS, key=VALUES["key"], day=VALUES["day"])) == 2


<% endif %>
async def test_errors_are_those_of_a_session(database: Database, clean: None) -> None:
    queries = Queries(database)
    create = Create(PersonRead, Person, PERSON)
    first = await queries.create(create, email="a@example.com")
    assert first == await queries.first(PERSON_BY_EMAIL, email="a@example.com")

    with pytest.raises(DBAPIError) as fast:
        await queries.create(create, email="a@example.com")
    with pytest.raises(DBAPIError) as slow:
        async with database.session() as session:
            session.add(Person(email="a@example.com"))

    assert error_code(fast.value) == error_code(slow.value)
    assert "a@example.com" not in str(fast.value).split("[SQL")[1]
    assert database.pool.checkedout() == 0


async def test_names_are_checked(things: Queries, clean: None) -> None:
    create = Create(PersonRead, Person, PERSON)
    with pytest.raises(TypeError, match="Missing: email"):
        await things.first(PERSON_BY_EMAIL)
    with pytest.raises(TypeError, match="No such name: mail; there is email"):
        await things.first(PERSON_BY_EMAIL, mail="a@example.com")
    with pytest.raises(TypeError, match="No such name: full_nam; there is created_at, email, full"):
        await things.create(create, email="a@example.com", full_nam="A")
    with pytest.raises(TypeError, match="SQL, which needs a session"):
        await things.create(create, email=func.lower("A@example.com"))
    with pytest.raises(TypeError, match="No such name: full_nam"):
        await things.execute(RENAME, person_id=1, full_nam="A")
    with pytest.raises(TypeError, match="Missing: person_id"):
        await things.execute(RENAME, full_name="A")
    with pytest.raises(TypeError, match="Nothing to set"):
        await things.execute(RENAME, person_id=1)
    with pytest.raises(TypeError, match="The lock would end at once"):
        await things.first(Read(PersonRead, PERSON.with_for_update()))


async def test_a_checkout_opens_what_is_missing() -> None:
    async with started(pool_size=1, max_overflow=1) as (_, database):
        pool = database.pool
        first, second = await pool.acquire(), await pool.acquire()
        be_impatient(database, 0.1)
        with pytest.raises(PoolTimeoutError):
            await pool.acquire()
        be_impatient(database, 20)
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        driver = first.driver_connection
        await pool.release(first)
        assert (await waiting).driver_connection is driver
        await pool.release(waiting.result())
        await pool.release(second)
        assert pool.checkedin() == 1
        # Closed behind the pool's back, it is opened again.
        assert driver is not None
<% if cookiecutter.database == "postgresql" %>
        await driver.close()
<% else %>
        driver.close()
<% endif %>
        again = await pool.acquire()
        assert again.driver_connection is not driver
        await pool.release(again)
        assert pool.checkedout() == 0


async def test_a_cancelled_query_is_nobody_elses() -> None:
<% if cookiecutter.database == "postgresql" %>
    pause = func.pg_sleep(5).cast(String)
<% else %>
    pause = func.sleep(5).cast(String(10))
<% endif %>
    slow = Read(str, select(pause))
    async with started(pool_size=1) as (client, database):
        assert (await client.get("/people/1")).status_code == 404
        query = asyncio.create_task(Queries(database).all(slow))
        await asyncio.sleep(0.1)
        assert database.pool.checkedout() == 1
        query.cancel()
        with pytest.raises(asyncio.CancelledError):
            await query

        assert (await client.get("/people/1")).status_code == 404
        assert database.pool.checkedout() == 0


async def test_echo_shows_queries(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        async with started(echo_sql=True) as (client, _):
            await client.get("/people/12345")

    assert "FROM _test_people" in caplog.text
    assert "[12345]" in caplog.text
