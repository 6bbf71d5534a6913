"""An application that reads in loops, and in what looks like some: see `test_query_loops.py`."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import Database
from app.core.deps import SessionDep
from app.core.queries import Queries, QueriesDep, Read
from app.core.retries import retry_conflicts
<% if cookiecutter.sync_bridge == "yes" %>
from app.core.sync import SyncSessionDep
<% endif %>
from tests.core.people import PERSON, PERSON_BY_ID
from tests.core.tables import Person, PersonRead

PEOPLE_AFTER = Read(PersonRead, PERSON.where(Person.id > bindparam("after")).limit(2))
IDS = (1, 2, 3)

router = APIRouter()


@router.get("/one-by-one-in-a-session")
async def read_in_session(session: SessionDep) -> None:
    """Read row after row."""
    for person_id in IDS:
        await session.get(Person, person_id)


@router.get("/one-by-one")
async def read_singly(queries: QueriesDep) -> None:
    """Read row after row, each in a helper."""
    for person_id in IDS:
        await read_one(queries, person_id)


async def read_one(queries: Queries, person_id: int) -> PersonRead | None:
    """Read a row."""
    person = await queries.first(PERSON_BY_ID, person_id=person_id)
    return person


<% if cookiecutter.sync_bridge == "yes" %>
@router.get("/one-by-one-in-a-thread")
def read_in_thread(session: SyncSessionDep) -> None:
    """Read row after row by a synchronous session."""
    for person_id in IDS:
        session.get(Person, person_id)


<% endif %>
async def read_in_transaction(queries: Queries) -> None:
    """Read row after row in a transaction."""
    async with queries.begin() as transaction:
        for person_id in IDS:
            await transaction.first(PERSON_BY_ID, person_id=person_id)


async def read_at_once(queries: Queries) -> None:
    """Read as many rows at once as there are ids, and so by as many connections."""
    reads = [queries.all(PERSON_BY_ID, person_id=person_id) for person_id in IDS]
    await asyncio.gather(*reads)


async def read_in_group(database: Database) -> None:
    """Read each row in a task and session of its own."""

    async def read(person_id: int) -> None:
        async with database.session() as session:
            await session.execute(select(Person).where(Person.id == person_id))

    async with asyncio.TaskGroup() as group:
        for person_id in IDS:
            group.create_task(read(person_id))


async def read_pair(queries: Queries) -> None:
    """Read what belongs together."""
    for person_id in IDS[:2]:
        await read_one(queries, person_id)


async def read_pages(queries: Queries) -> None:
    """Read many rows, page after page."""
    for after in IDS:
        await queries.all(PEOPLE_AFTER, after=after)


async def store(database: Database) -> None:
    """Store rows, of which some servers have to be asked what they have stored."""
    async with database.session() as session:
        session.add_all(Person(email=f"{number}@example.com") for number in IDS)
        await session.flush()


async def read_again_after_conflicts(
    database: Database, lose: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    """Read once, in a unit of work that is run again and again."""

    async def unit() -> None:
        async with database.session() as session:
            await session.get(Person, 1)
            await lose(session)

    await retry_conflicts(unit)
