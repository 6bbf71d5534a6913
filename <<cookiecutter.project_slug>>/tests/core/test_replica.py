"""A replica beside the primary: here another database of the server, which lacks the tables."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import URL, func, make_url, select

from app.core.db import Database
from app.core.queries import Create, Queries, Read
from app.core.replica import Replica
from tests.core.conftest import started
from tests.core.people import PERSON
from tests.core.tables import Person, PersonRead

<% if cookiecutter.database == "postgresql" %>
DATABASE_NAME = Read(str, select(func.current_database()))
<% else %>
DATABASE_NAME = Read(str, select(func.database()))
<% endif %>
PEOPLE = Read(PersonRead, PERSON)
CREATE_PERSON = Create(PersonRead, Person, PERSON)

ELSEWHERE = make_url(os.environ["TEST_DATABASE_URL"])
NOWHERE = ELSEWHERE.set(host="127.0.0.1", port=1, query={})


@asynccontextmanager
async def with_replica(database: Database, url: URL) -> AsyncIterator[Queries]:
    """Read from another database."""
    other = Database(
        url, pool_size=2, max_overflow=0, pool_timeout=3, pool_recycle=-1, statement_timeout=30
    )
    async with Replica(database, other) as replica:
        yield Queries(database, replica)


async def test_reads_go_to_the_replica(database: Database) -> None:
    async with with_replica(database, ELSEWHERE) as queries:
        assert await queries.first(DATABASE_NAME) == ELSEWHERE.database
        assert not queries.lacks_replica
        # A write reads what it changes where it changes it.
        async with queries.begin() as transaction:
            assert await transaction.first(DATABASE_NAME) == database.engine.url.database


async def test_what_the_replica_cannot_read_the_primary_does(
    database: Database, clean: None
) -> None:
    async with with_replica(database, ELSEWHERE) as queries:
        # There are no tables yet.
        person = await queries.create(CREATE_PERSON, email="a@example.com")
        assert await queries.all(PEOPLE) == [person]
        assert await queries.first(DATABASE_NAME) == ELSEWHERE.database


async def test_without_a_replica_reads_go_to_the_primary(database: Database) -> None:
    async with with_replica(database, NOWHERE) as queries:
        assert await queries.first(DATABASE_NAME) == database.engine.url.database
    async with started(database_read_url=NOWHERE) as (client, _):
        assert (await client.get("/people/1")).status_code == 404
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "degraded"})
