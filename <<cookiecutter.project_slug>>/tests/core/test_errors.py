"""What the database reports is answered, tried again, or a bug; the server itself reports it here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.core.db import Database, OneTaskSession
from dev import database as databases
from tests.core import routes
from tests.core.conftest import started
from tests.core.tables import Person


@pytest.mark.parametrize(
    ("code", "status"),
    [
<% if cookiecutter.database == "postgresql" %>
        ("23001", 409),  # foreign key that restricts
        ("23503", 409),  # foreign key
        ("23P01", 409),  # exclusion constraint
        ("23514", 422),  # check constraint
        ("22003", 422),  # out of range
        ("57014", 504),  # stopped
        ("08006", 503),  # connection failure
        ("28P01", 503),  # wrong password
        ("3D000", 503),  # no such database
        ("40001", 503),  # serialization failure, again and again
        ("44000", 422),  # check option of a view
        ("53300", 503),  # too many connections
        ("55P03", 503),  # lock not available
        ("57P01", 503),  # shutting down
        ("58030", 503),  # the disk
<% else %>
        (1264, 422),
        (1300, 422),
        (1292, 422),
        (1366, 422),
        (1406, 422),
        (1153, 422),
        (1369, 422),
        (1690, 422),
        (3140, 422),
        (3150, 422),
        (3151, 422),
        (3157, 422),
        (3819, 422),
        (3854, 422),
        (3988, 422),
        (4025, 422),
        (1216, 409),
        (1217, 409),
        (1451, 409),
        (1452, 409),
        (1586, 409),
        (1139, 422),
        (1365, 422),
        (3037, 422),
        (3696, 422),
        (1205, 504),
        (1317, 504),
        (1969, 504),
        (3024, 504),
        (1021, 503),
        (3, 503),
        (1020, 503),
        (1114, 503),
        (1040, 503),
        (1041, 503),
        (1044, 503),
        (1045, 503),
        (1049, 503),
        (1053, 503),
        (1203, 503),
        (1213, 503),
        (1226, 503),
        (1927, 503),
        (2002, 503),
        (2003, 503),
        (2006, 503),
        (2013, 503),
        (4031, 503),
<% endif %>
    ],
)
async def test_errors_of_the_server_have_their_answers(
    client: AsyncClient, code: str | int, status: int
) -> None:
    response = await client.get(f"/fail/{code}")

    assert response.status_code == status
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)
    assert isinstance(response.json()["detail"], str)


async def test_any_other_error_of_the_server_is_a_bug(client: AsyncClient) -> None:
    # No such function, as after a typing error.
    with pytest.raises(DBAPIError):
<% if cookiecutter.database == "postgresql" %>
        await client.get("/fail/42883")
    # No number is left for a key.
    with pytest.raises(DBAPIError):
        await client.get("/fail/2200H")
<% else %>
        await client.get("/fail/1305")
    # MariaDB has no number left for a key. It is the driver's class for the server's own troubles.
    with pytest.raises(DBAPIError):
        await client.get("/fail/167")
<% endif %>


<% if cookiecutter.database == "postgresql" %>
@pytest.mark.parametrize("code", ["40001", "40P01"])
<% else %>
@pytest.mark.parametrize("code", [1020, 1205, 1213])
<% endif %>
async def test_a_conflict_at_the_commit_is_run_again(
    committing_client: AsyncClient, database: Database, code: str | int
) -> None:
    def lose(session: Session) -> None:
        session.execute(text(routes.FAIL.format(code)))

    created = await committing_client.post("/people", json={"email": "a@example.com"})
    event.listen(OneTaskSession, "before_commit", lose, once=True)
    response = await committing_client.delete(created.headers["location"])

    assert response.status_code == 204
    async with database.session() as session:
        assert list(await session.scalars(select(Person.full_name))) == []


<% if cookiecutter.database == "postgresql" %>
@pytest.mark.parametrize("code", ["25006"])
<% else %>
@pytest.mark.parametrize("code", [1290, 1792, 1836])
<% endif %>
async def test_the_one_connection_to_a_read_only_server_is_left(code: str | int) -> None:
    async def connections(database: Database) -> set[object]:
        async with database.engine.connect() as one, database.engine.connect() as other:
            return {
                (await connection.get_raw_connection()).driver_connection
                for connection in (one, other)
            }

    async with started(pool_size=2) as (client, database):
        before = await connections(database)
        response = await client.get(f"/fail/{code}")

        assert response.status_code == 503
        assert response.json() == {"detail": "The database takes no writes at the moment"}
        assert len(before & await connections(database)) == 1


async def test_an_error_of_the_first_run_of_a_query_is_no_other(database: Database) -> None:
    async with started() as (client, _):
        url = database.engine.url
        await databases.execute(url, "ALTER TABLE _test_people RENAME TO _test_away")
        try:
            with pytest.raises(DBAPIError):
                await client.get("/people")
        finally:
            await databases.execute(url, "ALTER TABLE _test_away RENAME TO _test_people")
        assert (await client.get("/people")).status_code == 200


@pytest.mark.parametrize("path", ["/people", "/echo/1", "/health/ready"])
async def test_without_its_lifespan_an_application_says_so(path: str) -> None:
    """As when it is mounted in another one, whose lifespan alone is run."""
    inner = routes.make()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/inner", inner)
    async with AsyncClient(transport=ASGITransport(outer), base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="the application's lifespan has not run"):
            await client.get(f"/inner{path}")
        # The cure that it names.
        async with outer.router.lifespan_context(outer):
            assert (await client.get(f"/inner{path}")).status_code == 200


def test_a_test_with_another_loop_is_told(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.anyio)
    with pytest.raises(pytest.fail.Exception, match=r"Take `@pytest\.mark\.anyio` away"):
        request.config.hook.pytest_runtest_setup(item=request.node)
