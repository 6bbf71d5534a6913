"""What is committed: all or nothing, before the answer, and once."""

from contextlib import suppress
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.core.db import Database, OwnedSession
from app.core.deps import RetryRoute, SessionDep, get_session
from tests.core.conftest import started
from tests.core.routes import FAIL
from tests.core.tables import Person

<% if cookiecutter.database == "postgresql" %>
LOSE = [text(FAIL.format("40P01"))]
<% else %>
# What the server does after a deadlock, and after some other conflicts.
LOSE = [text("ROLLBACK"), text(FAIL.format(1020))]
<% endif %>

router = APIRouter()


async def stored(database: Database) -> list[str]:
    """Return the e-mail addresses that were committed."""
    async with database.session() as session:
        return list(await session.scalars(select(Person.email).order_by(Person.email)))


async def write(session: AsyncSession, email: str) -> None:
    """Store somebody."""
    session.add(Person(email=email))
    await session.flush()


async def lose(session: AsyncSession | AsyncConnection) -> None:
    """Lose a conflict with nobody."""
    for statement in LOSE:
        await session.execute(statement)


@pytest.mark.parametrize("level", ["SERIALIZABLE", "AUTOCOMMIT"])
async def test_the_level_of_one_session_costs_nobody_a_write(level: str, clean: None) -> None:
    async with started(pool_size=1) as (client, database):
        with suppress(ZeroDivisionError):
            async with database.session() as session:
                await session.connection(execution_options={"isolation_level": level})
                await write(session, "one@example.com")
                raise ZeroDivisionError
        # By the same connection, in which each single statement commits itself.
        assert (await client.post("/people", json={"email": "two@example.com"})).status_code == 201
        one = ["one@example.com"] if level == "AUTOCOMMIT" else []
        assert await stored(database) == [*one, "two@example.com"]


@router.post("/careless", status_code=201)
async def keep_an_error(session: SessionDep, after: bool) -> None:
    """Keep an error to oneself that has ended the transaction."""
    await write(session, "before@example.com")
    with suppress(DBAPIError):
        await lose(session)
    if after:
        await write(session, "after@example.com")


@router.post("/careful", status_code=201)
async def keep_an_error_of_a_savepoint(session: SessionDep) -> None:
    """Keep an error to oneself that has ended a savepoint."""
    await write(session, "before@example.com")
    with suppress(DBAPIError):
        async with session.begin_nested():
            await write(session, "before@example.com")


@pytest.mark.parametrize("after", [True, False])
async def test_what_an_error_has_ended_is_not_committed(after: bool, clean: None) -> None:
    """Also when somebody has caught it: the server would say nothing at the commit."""
    async with started(router, pool_size=1) as (client, database):
        assert (await client.post("/careless", params={"after": after})).status_code == 503
        assert await stored(database) == []
        assert (await client.post("/careful")).status_code == 201
        assert await stored(database) == ["before@example.com"]


async def test_after_a_rollback_a_connection_goes_on(database: Database, clean: None) -> None:
    async with database.engine.connect() as connection:
        with suppress(DBAPIError):
            await lose(connection)
        await connection.rollback()
        await connection.execute(insert(Person).values(email="a@example.com"))
        await connection.commit()
    assert await stored(database) == ["a@example.com"]


@pytest.mark.parametrize("way", ["commit", "begin", "begin_nested", "autocommit"])
async def test_a_commit_of_ones_own_counts_as_one(way: str, clean: None) -> None:
    """It is not run again, and waits for what commits wait for."""
    own = APIRouter(route_class=RetryRoute)
    waits: list[str] = []

    @own.post("/own")
    async def commit(session: SessionDep) -> None:
        if way == "commit":
            await write(session, f"{len(waits)}@example.com")
            await session.commit()
        elif way == "autocommit":
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            await write(session, f"{len(waits)}@example.com")
        else:
            async with getattr(session, way)():
                await write(session, f"{len(waits)}@example.com")
        if len(waits) < 1:
            waits.append("lost")
            await lose(session)

    async def wait() -> None:
        waits.append("waited")

    async with started(own) as (client, database):
        database.after_commit = wait
        status = (await client.post("/own")).status_code
        assert waits == ["lost", "waited"]
        # What only a savepoint has ended is not committed, and so is run again.
        savepoint = way == "begin_nested"
        assert status == (200 if savepoint else 503)
        assert await stored(database) == [f"{int(savepoint)}@example.com"]


async def test_a_session_by_its_function_commits_before_the_answer_too(
    monkeypatch: pytest.MonkeyPatch, clean: None
) -> None:
    own = APIRouter()

    @own.post("/own", status_code=201)
    async def create(session: Annotated[AsyncSession, Depends(get_session)]) -> None:
        await write(session, "a@example.com")

    async def fail(_: OwnedSession) -> None:
        raise TimeoutError

    async with started(own) as (client, _):
        with monkeypatch.context() as patch:
            patch.setattr(OwnedSession, "commit", fail)
            response = await client.post("/own")
    assert response.status_code == 504


async def test_a_route_without_async_is_told(clean: None) -> None:
    own = APIRouter()

    @own.post("/own")
    def create(session: SessionDep) -> None:
        session.add(Person(email="a@example.com"))

    async with started(own) as (client, database):
        with pytest.raises(RuntimeError, match="of `async def`"):
            await client.post("/own")
        assert await stored(database) == []
