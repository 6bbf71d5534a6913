"""What is answered is what is stored, and nothing else is."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from httpx2 import AsyncClient, Response
from sqlalchemy import select
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.exc import IntegrityError
<% else %>
from sqlalchemy.exc import IntegrityError, StatementError
<% endif %>
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import Database
<% if cookiecutter.database == "postgresql" %>
from dev import database as databases
<% endif %>
from tests.core import routes
<% if cookiecutter.database == "mysql" %>
from tests.core.conftest import started
<% endif %>
from tests.core.tables import Person


async def stored(database: Database) -> list[str]:
    """Return the e-mail addresses that were committed."""
    async with database.session() as session:
        return list(await session.scalars(select(Person.email).order_by(Person.email)))


@pytest.mark.parametrize("run", [1, 2])
async def test_tests_do_not_see_each_other(client: AsyncClient, run: int) -> None:
    assert (await client.get("/people")).json()["items"] == []
    assert (await client.post("/people", json={"email": "a@example.com"})).status_code == 201


async def test_a_test_goes_on_after_an_integrity_error(
    client: AsyncClient, session: AsyncSession
) -> None:
    session.add(Person(email="a@example.com"))
    await session.commit()
    session.add(Person(email="a@example.com"))
    with pytest.raises(IntegrityError):
        await session.flush()
    await session.rollback()

    assert (await client.post("/people", json={"email": "a@example.com"})).status_code == 409
    assert len((await client.get("/people")).json()["items"]) == 1


async def test_of_forty_equal_creates_one_succeeds(
    committing_client: AsyncClient, database: Database
) -> None:
    responses = await asyncio.gather(
        *(committing_client.post("/people", json={"email": "a@example.com"}) for _ in range(40))
    )

    assert Counter(response.status_code for response in responses) == {201: 1, 409: 39}
    assert await stored(database) == ["a@example.com"]


async def test_a_person_who_is_deleted_meanwhile_is_not_found(
    committing_client: AsyncClient, database: Database
) -> None:
    for number in range(5):
        created = await committing_client.post("/people", json={"email": f"{number}@example.com"})
        path = created.headers["location"]

        deleted, *others = await asyncio.gather(
            committing_client.delete(path),
            committing_client.delete(path),
            *(committing_client.patch(path, json={"full_name": str(n)}) for n in range(3)),
        )

        assert sorted(response.status_code for response in (deleted, others[0])) == [204, 404]
        assert {response.status_code for response in others[1:]} <= {200, 404}
    assert await stored(database) == []


async def test_what_is_answered_201_is_committed_before(server: AsyncClient) -> None:
    async def create_and_read(number: int) -> int:
        created = await server.post("/people", json={"email": f"{number}@example.com"})
        assert created.status_code == 201
        return (await server.get(created.headers["location"])).status_code

    # Each create has its own connection, and each read most likely another one.
    assert set(await asyncio.gather(*map(create_and_read, range(40)))) == {200}


async def test_an_error_after_a_write_leaves_nothing(
    committing_client: AsyncClient, database: Database
) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        await committing_client.post("/people-then/raise", params={"email": "a@example.com"})

    assert await stored(database) == []


async def test_a_commit_on_a_killed_connection_is_no_success(
    committing_client: AsyncClient, database: Database
) -> None:
    response = await committing_client.post("/people-then/kill", params={"email": "a@example.com"})

    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert await stored(database) == []
<% if cookiecutter.database == "postgresql" %>


async def test_a_commit_that_a_deferred_constraint_refuses_is_no_success(
    committing_client: AsyncClient, database: Database
) -> None:
    url = database.engine.url
    await databases.execute(
        url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE check_violation; END $$",
    )
    await databases.execute(
        url,
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON _test_people DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    try:
        response = await committing_client.post("/people", json={"email": "a@example.com"})
    finally:
        await databases.execute(url, "DROP FUNCTION refuse CASCADE")

    assert response.status_code == 422
    assert await stored(database) == []
<% endif %>


async def test_requests_that_lock_in_opposite_order_both_succeed(
    committing_client: AsyncClient, database: Database
) -> None:
    async with database.session() as session:
        people = [Person(email=f"{n}@example.com") for n in range(2)]
        session.add_all(people)
    first, second = (person.id for person in people)

    async def rename(one: int, other: int, full_name: str) -> Response:
        return await committing_client.post(
            f"/rename/{one}/{other}", params={"full_name": full_name}
        )

    responses = await asyncio.gather(rename(first, second, "A"), rename(second, first, "B"))

    assert [response.status_code for response in responses] == [200, 200]
    # Three runs or more: at least one was run again. A rename makes two counts a run.
    assert next(routes.runs) > 5
    async with database.session() as session:
        names = set(await session.scalars(select(Person.full_name)))
    assert names in ({"A"}, {"B"})


async def test_a_session_refuses_a_second_task(committing_client: AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="belongs to another task"):
        await committing_client.get("/shared-session")


async def test_objects_stay_readable_after_the_commit(database: Database, clean: None) -> None:
    async with database.session() as session:
        person = Person(email="a@example.com")
        session.add(person)

    assert person.id
    assert person.created_at.tzinfo is not None
<% if cookiecutter.database == "mysql" %>


async def test_objects_are_whole_without_returning(clean: None) -> None:
    """MariaDB has INSERT … RETURNING and MySQL has not: here it does as MySQL does."""
    async with started(pool_size=1) as (_, database):
        async with database.engine.connect():
            database.engine.dialect.insert_returning = False
        async with database.session() as session:
            person = Person(email="a@example.com")
            session.add(person)

    assert person.created_at.tzinfo is not None


async def test_a_transaction_sees_what_others_have_committed(
    committing_client: AsyncClient, database: Database
) -> None:
    """Not so on the server's own level, which also locks the gaps between rows."""
    async with database.session() as session:
        assert list(await session.scalars(select(Person.email))) == []
        await committing_client.post("/people", json={"email": "a@example.com"})
        assert list(await session.scalars(select(Person.email))) == ["a@example.com"]
<% endif %>


async def test_times_are_moments(session: AsyncSession) -> None:
    noon_in_india = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    person = Person(email="a@example.com", created_at=noon_in_india)
    session.add(person)
    await session.flush()
    await session.refresh(person)

    assert person.created_at == noon_in_india
<% if cookiecutter.database == "mysql" %>
    session.add(Person(email="b@example.com", created_at=datetime(2026, 1, 1, 12)))
    with pytest.raises(StatementError, match="a time needs a zone"):
        await session.flush()
<% endif %>
