"""Lists by any order: every row once, in the order of the server's own sorting."""

import base64
import json
import random
import uuid
from collections.abc import AsyncIterator
<% if cookiecutter.database == "postgresql" %>
from datetime import UTC, datetime, timedelta
<% else %>
from datetime import UTC, datetime, time, timedelta
<% endif %>
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from fastapi import HTTPException
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import (
    JSON,
    DateTime,
    Double,
    Float,
    LargeBinary,
    MetaData,
    Numeric,
    Select,
    String,
    func,
    insert,
    select,
    true,
    update,
)
<% else %>
from sqlalchemy import (
    JSON,
    VARBINARY,
    Double,
    Float,
    Interval,
    MetaData,
    Numeric,
    Select,
    String,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.dialects.mysql import SET, TIME
<% endif %>
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, aliased, column_property, mapped_column, registry

from app.api.database_errors import answer_to
from app.core.db import Database
from app.core.paging import list_page
<% if cookiecutter.database == "postgresql" %>
from app.models.base import Base
<% else %>
from app.models.base import Base, UTCDateTime
<% endif %>
from app.models.mixins import Timestamps, UUIDKey, uuid7
from tests.core.conftest import tables_of


class Size(StrEnum):
    """An enum, whose members are in no alphabetical order."""

    SMALL = "small"
    LARGE = "large"


class Apart(Base):
    """A base whose tables no migration knows."""

    __abstract__ = True
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    _sa_registry = registry(metadata=metadata)
<% if cookiecutter.database == "mysql" %>
    __table_args__ = {"mysql_charset": "utf8mb4"}
<% endif %>


class Parcel(UUIDKey, Timestamps, Apart):
    """What is sorted, by columns of many types."""

    __tablename__ = "_test_parcels"

    number: Mapped[int]
    weight: Mapped[Decimal | None] = mapped_column(Numeric(10, 3))
    town: Mapped[str | None] = mapped_column(String(20))
    ratio: Mapped[float | None] = mapped_column(Double)
    fragile: Mapped[bool]
<% if cookiecutter.database == "postgresql" %>
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
<% else %>
    sent_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
<% endif %>
<% if cookiecutter.database == "postgresql" %>
    local_at: Mapped[datetime] = mapped_column(DateTime)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
<% else %>
    lasted: Mapped[timedelta] = mapped_column(Interval)
    digest: Mapped[bytes] = mapped_column(VARBINARY(8))
<% endif %>
    size: Mapped[Size]
    single: Mapped[float] = mapped_column(Float(24))
    words: Mapped[dict[str, Any]] = mapped_column(JSON)
    exact: Mapped[Decimal | None] = mapped_column(Double(asdecimal=True))
    rough: Mapped[float | None] = mapped_column(Numeric(30, 20, asdecimal=False))
    length: Mapped[int] = column_property(func.length("four"))
<% if cookiecutter.database == "mysql" %>
    marks: Mapped[set[str] | None] = mapped_column(SET("b", "a"))
    late: Mapped[time | None] = mapped_column(TIME)
<% endif %>

    @hybrid_property
    def next_number(self) -> int:
        """What is counted up to."""
        return self.number + 1


class Place(Apart):
    """What has a key of two columns, and one that is loaded only when it is asked for."""

    __tablename__ = "_test_places"

    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seat: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    price: Mapped[int] = mapped_column("price_of_it", deferred=True)


Other = aliased(Parcel)
SORTABLE = {
    name: getattr(Parcel, name)
<% if cookiecutter.database == "postgresql" %>
    for name in (
        *("number", "weight", "town", "ratio", "fragile", "sent_at", "created_at", "id"),
        *("size", "single", "local_at", "digest"),
    )
<% else %>
    for name in (
        *("number", "weight", "town", "ratio", "fragile", "sent_at", "created_at", "id"),
        *("lasted", "digest"),
    )
<% endif %>
}
START = datetime(2026, 1, 1, tzinfo=UTC)
SEED = random.randrange(10**6)


def some_parcel() -> dict[str, Any]:
    """Return values of which many are equal, and some are none."""
    return {
        "number": random.randint(1, 4),
<% if cookiecutter.database == "postgresql" %>
        "weight": random.choice([None, Decimal("1.5"), Decimal("-2.125"), Decimal("NaN")]),
<% else %>
        "weight": random.choice([None, Decimal("1.5"), Decimal("-2.125"), Decimal(3)]),
<% endif %>
        "town": random.choice([None, "", "Rome", "rome", "Århus", "Zürich", "東京"]),
<% if cookiecutter.database == "postgresql" %>
        "ratio": random.choice([None, 0.1, 1e300, float("nan"), float("inf"), -float("inf")]),
<% else %>
        "ratio": random.choice([None, 0.1, -0.5, 1e300]),
<% endif %>
        "fragile": random.choice([True, False]),
<% if cookiecutter.database == "postgresql" %>
        # The last is infinity to the driver, and has no zone when it comes back.
        "sent_at": random.choice(
            [None, START, START + timedelta(microseconds=1), datetime.max.replace(tzinfo=UTC)]
        ),
<% else %>
        "sent_at": random.choice([None, START, START + timedelta(microseconds=1)]),
<% endif %>
<% if cookiecutter.database == "postgresql" %>
        "local_at": random.choice([datetime(2026, 1, 1), datetime(2026, 1, 2)]),
<% else %>
        "lasted": random.choice([timedelta(0), timedelta(days=40, microseconds=1)]),
<% endif %>
        "digest": random.choice([b"", b"rome", b"\x00", b"\xff\xfe", b"\xfb\xf0"]),
        "size": random.choice(list(Size)),
        "single": random.choice([0.1, 0.7]),
        "words": {},
    }


@pytest.fixture(scope="module")
async def parcels(database: Database) -> AsyncIterator[Database]:
    """Give a database with 60 parcels."""
    random.seed(SEED)
    async with tables_of(Apart.metadata, database):
        async with database.session() as session:
            await session.execute(insert(Parcel), [some_parcel() for _ in range(60)])
        yield database


async def test_every_row_comes_once_in_order(parcels: Database) -> None:
    print(f"seed {SEED}")
    random.seed(SEED)
    for _ in range(40):
        names = random.sample(list(SORTABLE), random.randint(0, 3))
        sort = ",".join(random.choice(["", "-"]) + name for name in names)
        query = select(Parcel).where(Parcel.number != random.randint(0, 4))
        options: dict[str, Any] = {"sortable": SORTABLE, "key": Parcel.id, "sort": sort}
        async with parcels.session() as session:
            whole, end = await list_page(session, query, after=None, limit=100, **options)
            assert end is None
            found = await walk(session, query, random.randint(1, 20), options)
        assert [row.id for row in found] == [row.id for row in whole], sort
        assert len({row.id for row in whole}) == len(whole)
        for name in reversed(sort.split(",") if sort else []):
            check_order([getattr(row, name.removeprefix("-")) for row in whole], name, names)


async def walk(
    session: AsyncSession, query: Select[Any], limit: int, options: dict[str, Any]
) -> list[Any]:
    """Return the rows of all pages."""
    after, found = None, []
    while True:
        page, after = await list_page(session, query, after=after, limit=limit, **options)
        found += page
        if after is None:
            return found
        assert len(page) == limit


@pytest.mark.parametrize("model", [Place, aliased(Place)])
@pytest.mark.parametrize("key", ["row", "price"])
async def test_a_key_that_several_rows_have_loses_none(
    parcels: Database, model: Any, key: str
) -> None:
    async with parcels.session() as session:
        session.add_all(Place(row=n // 4, seat=n % 4, price=n % 3) for n in range(12))
        for sort in ("", "-price"):
            options = {"sortable": {"price": model.price}, "key": getattr(model, key), "sort": sort}
            found = await walk(session, select(model), 2, options)
            assert len({(place.row, place.seat) for place in found}) == len(found) == 12
        await session.rollback()


async def test_a_page_goes_on_behind_what_the_server_has(parcels: Database) -> None:
    options: dict[str, Any] = {"sortable": SORTABLE, "key": Parcel.id, "sort": "-number"}
    async with parcels.session() as session:
        # Objects of the session, one of which another transaction changes.
        first, second, *others = await session.scalars(select(Parcel).order_by(Parcel.id))
        for number, parcel in [(12, first), (11, second)]:
            change = update(Parcel).where(Parcel.id == parcel.id).values(number=number)
            await session.execute(change, execution_options={"synchronize_session": False})
        found = await walk(session, select(Parcel), 1, options)
        assert [parcel.id for parcel in found[:2]] == [first.id, second.id]
        assert len(found) == len({parcel.id for parcel in found}) == 2 + len(others)
        await session.rollback()


def check_order(values: list[Any], name: str, names: list[str]) -> None:
    """Check the first column of an order; how texts are compared is the server's affair."""
    if name.removeprefix("-") != names[0] or names[0] in ("town", "id", "size"):
        return
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
<% if cookiecutter.database == "postgresql" %>
    known = [value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for value in known]
    # NaN, the only value that is not itself, is more than all numbers to the server.
    ranks = [(value != value, 0 if value != value else value) for value in known]
    assert ranks == sorted(ranks, reverse=name.startswith("-"))
<% else %>
    assert known == sorted(known, reverse=name.startswith("-"))
<% endif %>


@pytest.mark.parametrize(
    ("sort", "after"),
    [
        ("colour", None),
        ("--number", None),
        ("number,number", None),
        ("number,-number", None),
        ("number", "@"),
        ("number", "WzFd"),
        ("number", "bnVsbA=="),
        ("-number", "the cursor of another order"),
        ("number", "é"),
    ],
)
async def test_another_order_or_cursor_is_refused(
    parcels: Database, sort: str, after: str | None
) -> None:
    options: dict[str, Any] = {"sortable": SORTABLE, "key": Parcel.id, "limit": 5}
    async with parcels.session() as session:
        _, cursor = await list_page(session, select(Parcel), sort="number", after=None, **options)
        after = cursor if after == "the cursor of another order" else after
        with pytest.raises(HTTPException) as refused:
            await list_page(session, select(Parcel), sort=sort, after=after, **options)
    assert refused.value.status_code == 422


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 2**200),
        ("number", -(2**200)),
        ("digest", "!"),
        ("sent_at", "0001-01-01T00:00:00+14:00"),
        ("sent_at", "9999-12-31T23:59:59-14:00"),
        ("sent_at", "2026-01-01T00:00:00"),
<% if cookiecutter.database == "postgresql" %>
        ("local_at", "2026-01-01T00:00:00Z"),
<% else %>
        ("lasted", "P999999999D"),
        ("lasted", "-P999999999D"),
<% endif %>
    ],
)
async def test_a_forged_value_is_refused(parcels: Database, name: str, value: Any) -> None:
    forged = json.dumps([name, value, str(uuid7())]).encode()
    options: dict[str, Any] = {"sortable": SORTABLE, "key": Parcel.id, "limit": 5}
    after = base64.urlsafe_b64encode(forged).decode()
    async with parcels.session() as session:
        with pytest.raises((HTTPException, DBAPIError)) as refused:
            await list_page(session, select(Parcel), sort=name, after=after, **options)
    error = refused.value
    if isinstance(error, HTTPException):
        assert error.status_code == 422
    else:
        # The application answers so for what the driver or the server refuses.
        assert isinstance(error, DBAPIError)
        assert (answer_to(error) or (500, ""))[0] == 422


<% if cookiecutter.database == "postgresql" %>
@pytest.mark.parametrize("name", ["words", "exact", "rough", "length", "next_number"])
<% else %>
@pytest.mark.parametrize(
    "name",
    ["words", "exact", "rough", "length", "next_number", "size", "single", "marks", "late"],
)
<% endif %>
async def test_what_is_no_order_is_refused(parcels: Database, name: str) -> None:
    # Before somebody asks for it.
    options: dict[str, Any] = {"sort": "", "after": None, "limit": 5}
    column = getattr(Parcel, name)
    async with parcels.session() as session:
        for sortable, key in [({name: column}, Parcel.id), ({}, column)]:
            with pytest.raises(TypeError, match=f"{name} cannot be sorted by"):
                await list_page(session, select(Parcel), sortable=sortable, key=key, **options)


@pytest.mark.parametrize("column", [Place.seat, Other.number])
async def test_a_column_of_another_model_is_refused(parcels: Database, column: Any) -> None:
    options: dict[str, Any] = {"key": Parcel.id, "sort": "", "after": None, "limit": 5}
    async with parcels.session() as session:
        with pytest.raises(TypeError, match="it is no column of"):
            await list_page(session, select(Parcel), sortable={"other": column}, **options)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (select(Parcel).join(Other, true()), r"exists\(…\)"),
        (select(Parcel, Other).where(Parcel.number == Other.number), r"exists\(…\)"),
        (select(Parcel).order_by(Parcel.town), "leave out"),
        (select(Parcel).limit(2), "leave out"),
        (select(Parcel).offset(2), "leave out"),
        (select(Parcel.id), "of models"),
    ],
)
async def test_a_query_whose_pages_would_lose_rows_is_refused(
    parcels: Database, query: Any, message: str
) -> None:
    options: dict[str, Any] = {"sortable": SORTABLE, "key": Parcel.id, "after": None}
    async with parcels.session() as session:
        with pytest.raises(TypeError, match=message):
            await list_page(session, query, sort="number", limit=5, **options)


async def test_keys_are_in_the_order_of_time_and_times_are_the_servers(parcels: Database) -> None:
    keys = [uuid7() for _ in range(1000)]
    assert keys == sorted(keys)
    assert len(set(keys)) == 1000
    assert {key.version for key in keys} == {7}
    assert {key.variant for key in keys} == {uuid.RFC_4122}

    async with parcels.session() as session:
        parcel = Parcel(**some_parcel())
        session.add(parcel)
        await session.flush()
        created = parcel.created_at
        assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)
        assert parcel.updated_at == created
    async with parcels.session() as session:
        changed = await session.get_one(Parcel, parcel.id)
        changed.number += 1
        await session.flush()
        assert changed.created_at == created
        assert changed.updated_at > created
