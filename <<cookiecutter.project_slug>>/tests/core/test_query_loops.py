"""A test in which the application reads in a loop fails, and says where; nothing else does."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from httpx2 import AsyncClient

from app.core.db import Database
from app.core.queries import Queries
from tests import query_loops
from tests.core import reading
from tests.core.conftest import started
from tests.core.test_retries import Loser
from tests.process import PROJECT

# Here it is each test's own affair.
pytestmark = pytest.mark.allow_query_loop

READING = "tests/core/reading.py"


@pytest.fixture(autouse=True)
def reading_is_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_loops, "is_application", lambda path: path == READING)


async def complaint(run: Callable[[], Awaitable[object]]) -> tuple[str, str]:
    """Return the line that is complained about, and all that is said."""
    with pytest.raises(pytest.fail.Exception) as refused, query_loops.refusing_query_loops():
        await run()
    [number] = re.findall(rf"^{READING}:(\d+) reads in a loop: SELECT", str(refused.value), re.M)
    return (PROJECT / READING).read_text().splitlines()[int(number) - 1], str(refused.value)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/one-by-one-in-a-session", "await session.get(Person, person_id)"),
        ("/one-by-one", "await read_one(queries, person_id)"),
<% if cookiecutter.sync_bridge == "yes" %>
        ("/one-by-one-in-a-thread", "session.get(Person, person_id)"),
<% endif %>
    ],
)
async def test_a_route_that_reads_in_a_loop_is_named(path: str, line: str) -> None:
    async with started(reading.router) as (client, _):
        where, said = await complaint(lambda: client.get(path))

    assert where.strip() == line
    assert "FROM _test_people" in said
    assert "@pytest.mark.allow_query_loop" in said


async def test_loops_of_any_kind_are_named(database: Database, queries: Queries) -> None:
    in_transaction, _ = await complaint(lambda: reading.read_in_transaction(queries))
    at_once, _ = await complaint(lambda: reading.read_at_once(queries))
    in_group, _ = await complaint(lambda: reading.read_in_group(database))

    assert in_transaction.strip().startswith("await transaction.first(")
    assert at_once.strip() == "await asyncio.gather(*reads)"
    assert in_group.strip() == "group.create_task(read(person_id))"


async def test_what_is_no_loop_passes(database: Database, queries: Queries, clean: None) -> None:
    with query_loops.refusing_query_loops():
        await reading.read_pair(queries)
        await reading.read_pages(queries)
        await reading.store(database)
        await reading.read_again_after_conflicts(database, Loser(4).lose)


async def test_a_loop_of_the_test_passes(committing_client: AsyncClient, queries: Queries) -> None:
    with query_loops.refusing_query_loops():
        for _ in range(3):
            await reading.read_one(queries, 1)
            await committing_client.get("/people/1")


@pytest.mark.parametrize(
    ("path", "counts"),
    [("app/api/health.py", True), ("app/core/queries.py", False), ("tests/core/reading.py", False)],
)
def test_only_the_application_counts(
    monkeypatch: pytest.MonkeyPatch, path: str, counts: bool
) -> None:
    monkeypatch.undo()

    assert query_loops.is_application(path) is counts


async def test_every_test_is_looked_at_but_for_those_with_the_mark(
    request: pytest.FixtureRequest, queries: Queries
) -> None:
    async def end_of(item: Any) -> Callable[[], object]:
        call = query_loops.pytest_runtest_call(item)
        next(call)
        await reading.read_at_once(queries)
        return lambda: call.send(None)

    assert request.config.pluginmanager.is_registered(query_loops)
    marked, unmarked = await end_of(request.node), await end_of(request.session)
    with pytest.raises(StopIteration):
        marked()
    with pytest.raises(pytest.fail.Exception):
        unmarked()
