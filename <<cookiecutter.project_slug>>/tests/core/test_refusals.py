"""What the database refuses is answered by whose mistake it is, and logged by its name.

By models and tables of their own, which no migration knows.
"""

import enum
from collections.abc import AsyncIterator, Awaitable, Callable
<% if cookiecutter.database == "postgresql" %>
from datetime import UTC, datetime
<% else %>
from datetime import datetime
<% endif %>
from traceback import format_exception
from typing import Any

import pytest
from fastapi import APIRouter
from httpx2 import ASGITransport, AsyncClient
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    MetaData,
    String,
    literal,
    select,
    text,
)
<% else %>
from sqlalchemy import CheckConstraint, Enum, ForeignKey, MetaData, String, text
<% endif %>
from sqlalchemy import insert as insert_into
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.exc import PendingRollbackError, StatementError
<% else %>
from sqlalchemy.exc import StatementError
<% endif %>
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.orm.exc import FlushError
<% endif %>

from app.core.db import Database
from app.core.deps import RetryRoute, SessionDep
<% if cookiecutter.database == "postgresql" %>
from app.core.queries import Create, Queries, QueriesDep
<% endif %>
<% if cookiecutter.database == "postgresql" %>
from app.models.base import Base
<% else %>
from app.models.base import Base, UTCDateTime
<% endif %>
from tests.core.routes import make

SECRET = "correct-horse"

CHANGED = "Somebody else has changed or deleted that meanwhile"
MISSING = "That refers to something that does not exist"
REFERRED_TO = "Something still refers to that"
REFUSED_VALUE = "The database refused a value"


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""

    metadata = MetaData(naming_convention=Base.metadata.naming_convention)


class Color(enum.Enum):
    """A choice, to which a member was added without a migration."""

    RED = "red"
    GREEN = "green"


class Box(Apart):
    """Something to refer to, which is changed by its version."""

    __tablename__ = "_test_boxes"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(String(20), unique=True)
    weight: Mapped[int] = mapped_column(default=1)
    color: Mapped[Color] = mapped_column(Enum(Color, name="_test_color"), default=Color.RED)
<% if cookiecutter.database == "postgresql" %>
    packed_at: Mapped[datetime | None] = mapped_column(DateTime)
<% else %>
    packed_at: Mapped[datetime | None] = mapped_column(UTCDateTime)
<% endif %>
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}
    __table_args__ = (CheckConstraint("weight > 0", name="positive"),)


class Thing(Apart):
    """Refers to a box."""

    __tablename__ = "_test_things"
    id: Mapped[int] = mapped_column(primary_key=True)
    box_id: Mapped[int] = mapped_column(ForeignKey("_test_boxes.id"))


<% if cookiecutter.database == "mysql" %>
class Part(Apart):
    """A row that belongs into a partition."""

    __tablename__ = "_test_parts"
    id: Mapped[int] = mapped_column(primary_key=True)


PARTITION = "PARTITION BY LIST (id) (PARTITION first VALUES IN (1))"

<% endif %>
# Refuses a weight.
<% if cookiecutter.database == "postgresql" %>
TRIGGER = [
    "CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RAISE EXCEPTION $$unlucky$$; END'",
    "CREATE TRIGGER refuse BEFORE INSERT ON _test_boxes FOR EACH ROW WHEN (NEW.weight = 13)"
    " EXECUTE FUNCTION pg_temp.refuse()",
    "CREATE FUNCTION pg_temp.leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TRIGGER leave_out BEFORE INSERT ON _test_things FOR EACH ROW WHEN (NEW.box_id = 13)"
    " EXECUTE FUNCTION pg_temp.leave_out()",
]

CREATE_THING = Create(int, Thing, select(Thing.id))
<% else %>
TRIGGER = [
    "CREATE TRIGGER refuse BEFORE INSERT ON _test_boxes FOR EACH ROW"
    " IF NEW.weight = 13 THEN SIGNAL SQLSTATE '45000'; END IF"
]
<% endif %>


def insert(**values: Any) -> Callable[[AsyncSession], Awaitable[Any]]:
    """Return what inserts a box."""
    return lambda session: session.execute(insert_into(Box).values({"label": SECRET} | values))


def run(statement: str, **values: Any) -> Callable[[AsyncSession], Awaitable[Any]]:
    """Return what runs a statement."""
    return lambda session: session.execute(text(statement), values)


async def change_what_others_change(session: AsyncSession) -> None:
    """Change a row that somebody else changes after it was read."""
    box = await session.get_one(Box, 11)
    await session.execute(text("UPDATE _test_boxes SET version = version + 1"))
    box.weight = 2


async def delete_what_others_delete(session: AsyncSession) -> None:
    """Change a row that somebody else deletes after it was read."""
    box = await session.get_one(Box, 12)
    await session.execute(text("DELETE FROM _test_boxes WHERE id = 12"))
    box.weight = 2


ACTIONS = {
    "unique": insert(label="one"),
    "check": insert(weight=0),
    "too-long": insert(label=SECRET * 9),
    "too-large": run("UPDATE _test_boxes SET weight = :weight", weight=2**40),
<% if cookiecutter.database == "postgresql" %>
    "no-json": run("SELECT CAST(CAST(:value AS text) AS jsonb)", value="[NaN]"),
    "half-a-character": lambda session: session.execute(select(literal({"a": "\ud800"}, JSON))),
    "too-long-for-a-search": run("SELECT CAST(repeat('a', 3000) AS tsvector)"),
<% else %>
    "partition": run("INSERT INTO _test_parts VALUES (2)"),
<% endif %>
    "trigger": insert(weight=13),
    "insert-child": run("INSERT INTO _test_things (id, box_id) VALUES (9, 99)"),
    "update-child": run("UPDATE _test_things SET box_id = 99"),
    "delete-parent": run("DELETE FROM _test_boxes WHERE id = 11"),
    "update-parent": run("UPDATE _test_boxes SET id = 99 WHERE id = 11"),
    "other-version": change_what_others_change,
    "deleted": delete_what_others_delete,
    "null": insert(weight=None),
    "enum": insert(color=Color.GREEN),
<% if cookiecutter.database == "postgresql" %>
    "time-with-zone": insert(packed_at=datetime(2026, 1, 1, tzinfo=UTC)),
    "type": run("UPDATE _test_boxes SET label = :label", label=1),
<% else %>
    "no-default": run("INSERT INTO _test_things (id) VALUES (9)"),
    "time-without-zone": insert(packed_at=datetime(2026, 1, 1)),
<% endif %>
}

router = APIRouter(route_class=RetryRoute)


@router.post("/act/{action}")
async def act(session: SessionDep, action: str) -> None:
    """Do something that is refused."""
    await ACTIONS[action](session)


<% if cookiecutter.database == "postgresql" %>
@router.post("/leave-out")
async def leave_out(queries: QueriesDep) -> int:
    """Create what a trigger leaves out."""
    return await queries.create(CREATE_THING, box_id=13)


<% endif %>
@pytest.fixture(scope="module")
async def client(database: Database) -> AsyncIterator[AsyncClient]:
    """Return a client of an application with these tables."""
    app = make(router)
    async with database.engine.begin() as connection:
        await connection.run_sync(Apart.metadata.create_all)
<% if cookiecutter.database == "postgresql" %>
        await connection.execute(text("ALTER TYPE _test_color RENAME VALUE 'GREEN' TO 'BLUE'"))
<% else %>
        await connection.execute(text("ALTER TABLE _test_boxes MODIFY color ENUM('RED', 'BLUE')"))
        await connection.execute(text(f"ALTER TABLE _test_parts {PARTITION}"))
<% endif %>
        for statement in TRIGGER:
            await connection.execute(text(statement))
        await connection.execute(insert_into(Box), [{"id": 11, "label": "one"}])
        await connection.execute(insert_into(Box), [{"id": 12, "label": "two"}])
        await connection.execute(insert_into(Thing), [{"id": 11, "box_id": 11}])
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        yield client
    async with database.engine.begin() as connection:
        await connection.run_sync(Apart.metadata.drop_all)


@pytest.mark.parametrize(
    ("action", "status", "detail", "name"),
    [
        ("unique", 409, "That already exists", "uq__test_boxes_label"),
        ("check", 422, REFUSED_VALUE, "ck__test_boxes_positive"),
<% if cookiecutter.database == "postgresql" %>
        ("too-long", 422, REFUSED_VALUE, "22001"),
        ("too-large", 422, REFUSED_VALUE, "22000"),
        ("no-json", 422, REFUSED_VALUE, "22P02"),
        ("half-a-character", 422, REFUSED_VALUE, "22000"),
        ("too-long-for-a-search", 422, REFUSED_VALUE, "54000"),
        ("trigger", 422, REFUSED_VALUE, "P0001"),
<% else %>
        ("too-long", 422, REFUSED_VALUE, "1406 label"),
        ("too-large", 422, REFUSED_VALUE, "1264 weight"),
        ("partition", 422, REFUSED_VALUE, "1526"),
        ("trigger", 422, REFUSED_VALUE, "1644"),
<% endif %>
        ("insert-child", 409, MISSING, "fk__test_things_box_id__test_boxes"),
        ("update-child", 409, MISSING, "fk__test_things_box_id__test_boxes"),
        ("delete-parent", 409, REFERRED_TO, "fk__test_things_box_id__test_boxes"),
        ("update-parent", 409, REFERRED_TO, "fk__test_things_box_id__test_boxes"),
        ("other-version", 409, CHANGED, "_test_boxes"),
        ("deleted", 409, CHANGED, "_test_boxes"),
    ],
)
async def test_a_refusal_is_answered_and_logged_by_its_name(
    client: AsyncClient,
    caplog: pytest.LogCaptureFixture,
    action: str,
    status: int,
    detail: str,
    name: str,
) -> None:
    response = await client.post(f"/act/{action}")

    assert (response.status_code, response.json()) == (status, {"detail": detail})
    [line] = [record.getMessage() for record in caplog.records if record.name == "app.api.errors"]
    assert line.startswith(f"{status}: ")
    assert name in line
    assert SECRET not in caplog.text


<% if cookiecutter.database == "postgresql" %>
async def test_a_row_that_a_trigger_leaves_out_is_no_success(
    client: AsyncClient, database: Database
) -> None:
    response = await client.post("/leave-out")
    assert (response.status_code, response.json()) == (422, {"detail": REFUSED_VALUE})

    async def go_on() -> None:
        async with Queries(database).begin() as transaction:
            with pytest.raises(FlushError):
                await transaction.create(CREATE_THING, box_id=13)

    # As after any other error.
    with pytest.raises(PendingRollbackError):
        await go_on()
    with pytest.raises(FlushError):
        async with database.session() as session:
            session.add(Thing(box_id=13))


<% endif %>
@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("null", "weight"),
        ("enum", "color"),
<% if cookiecutter.database == "postgresql" %>
        ("time-with-zone", "offset-naive and offset-aware"),
        ("type", "expected str, got int"),
<% else %>
        ("no-default", "box_id"),
        ("time-without-zone", "a time needs a zone"),
<% endif %>
    ],
)
async def test_a_mistake_of_the_service_is_a_bug_with_its_name_in_the_log(
    client: AsyncClient, action: str, name: str
) -> None:
    with pytest.raises(StatementError, match=name) as error:
        await client.post(f"/act/{action}")

    assert SECRET not in "".join(format_exception(error.value))
