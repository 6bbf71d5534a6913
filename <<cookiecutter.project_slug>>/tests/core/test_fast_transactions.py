"""A transaction of single statements: all of it is committed, or nothing, and nobody else's."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import BigInteger, String, bindparam, func, select, text, update
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.core.db import Database, retry_conflicts
from app.core.deps import RetryRoute, SessionDep
from app.core.queries import Create, Queries, QueriesDep, Read, TransactionDep, Update
from tests.core import routes
from tests.core.conftest import started, tables_of


class Apart(DeclarativeBase):
    """A base whose tables no migration knows."""


class Account(Apart):
    """A row to change."""

    __tablename__ = "_test_accounts"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger, default=0)


class AccountRow(BaseModel):
    """An account."""

    name: str
    balance: int


ACCOUNT = select(Account.name, Account.balance)
CREATE = Create(AccountRow, Account, ACCOUNT)
ACCOUNTS = Read(AccountRow, ACCOUNT.order_by(Account.name))
LOCKED = Read(AccountRow, ACCOUNT.where(Account.name == bindparam("key")).with_for_update())
CHANGE = Update(update(Account).where(Account.name == bindparam("key")))
<% if cookiecutter.database == "postgresql" %>
SLEEP = Read(str, select(func.pg_sleep(30).cast(String)))
CONFLICT = "40001"
<% else %>
SLEEP = Read(str, select(func.sleep(30).cast(String(10))))
CONFLICT = "1213"
<% endif %>
runs = count(1)


@pytest.fixture
async def queries(database: Database) -> AsyncIterator[Queries]:
    """Make the table, with two accounts, for one test."""
    async with tables_of(Apart.metadata, database):
        queries = Queries(database)
        for name in ("a", "b"):
            await queries.create(CREATE, name=name)
        yield queries
        assert database.pool.checkedout() == 0


async def balances(queries: Queries) -> dict[str, int]:
    """Return what is committed."""
    return {account.name: account.balance for account in await queries.all(ACCOUNTS)}


async def test_all_is_committed_together(queries: Queries) -> None:
    async with queries.begin() as transaction:
        assert await transaction.first(LOCKED, key="a") == AccountRow(name="a", balance=0)
        assert await transaction.execute(CHANGE, key="a", balance=-5) == 1
        assert await transaction.execute(CHANGE, key="b", balance=5) == 1
        assert await transaction.execute(CHANGE, key="nobody", balance=5) == 0
        await transaction.create(CREATE, name="c", balance=1)
        assert len(await transaction.all(ACCOUNTS)) == 3
        # Not yet for others.
        assert await balances(queries) == {"a": 0, "b": 0}
    assert await balances(queries) == {"a": -5, "b": 5, "c": 1}


async def test_after_an_error_nothing_is_left(queries: Queries) -> None:
    async def fail() -> None:
        async with queries.begin() as transaction:
            await transaction.execute(CHANGE, key="a", balance=5)
            raise RuntimeError("a bug")

    async def go_on_after_an_error() -> None:
        async with queries.begin() as transaction:
            await transaction.execute(CHANGE, key="a", balance=5)
            with pytest.raises(DBAPIError):
                await transaction.create(CREATE, name="b")
            with pytest.raises(PendingRollbackError):
                await transaction.execute(CHANGE, key="a", balance=6)

    with pytest.raises(RuntimeError, match="a bug"):
        await fail()
    assert await balances(queries) == {"a": 0, "b": 0}
    with pytest.raises(PendingRollbackError) as refused:
        await go_on_after_an_error()
    assert isinstance(refused.value.__cause__, DBAPIError)
    assert await balances(queries) == {"a": 0, "b": 0}


async def test_cancelled_in_a_statement_it_is_rolled_back(queries: Queries) -> None:
    async with started(pool_size=1) as (_, database):
        alone = Queries(database)

        async def change() -> None:
            async with alone.begin() as transaction:
                await transaction.execute(CHANGE, key="a", balance=5)
                await transaction.first(SLEEP)

        for wait in (0.05, 0.1):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(wait):
                    await change()
            # The one connection is free again, and in nobody's transaction.
            assert await balances(alone) == {"a": 0, "b": 0}
        assert database.pool.checkedout() == 0


async def test_it_is_of_one_task_and_of_its_block(queries: Queries) -> None:
    async with queries.begin() as transaction:
        await transaction.execute(CHANGE, key="a", balance=5)
        with pytest.raises(RuntimeError, match="task that opened it"):
            await asyncio.create_task(transaction.all(ACCOUNTS))
    with pytest.raises(RuntimeError, match="within its block"):
        await transaction.all(ACCOUNTS)


async def test_no_write_is_committed_beside_it(queries: Queries, database: Database) -> None:
    async with queries.begin() as transaction:
        await transaction.execute(CHANGE, key="a", balance=5)
        with pytest.raises(RuntimeError, match="committed by itself"):
            await queries.create(CREATE, name="c")
        with pytest.raises(RuntimeError, match="committed by itself"):
            async with queries.begin():
                raise AssertionError
    async with database.session():
        with pytest.raises(RuntimeError, match="committed by itself"):
            await queries.execute(CHANGE, key="a", balance=6)
        # Another task's write is its own.
        await asyncio.create_task(queries.execute(CHANGE, key="b", balance=7))
    await queries.create(CREATE, name="c")
    assert await balances(queries) == {"a": 5, "b": 7, "c": 0}


async def test_a_lock_inside_of_a_read_needs_one_too(queries: Queries) -> None:
    first = select(Account.name).order_by(Account.name).limit(1).with_for_update().subquery()
    inner = Read(str, select(first.c.name))
    with pytest.raises(TypeError, match="lock would end at once"):
        await queries.all(inner)
    async with queries.begin() as transaction:
        assert await transaction.all(inner) == ["a"]


<% if cookiecutter.database == "postgresql" %>
async def test_a_read_that_writes_is_a_write(queries: Queries, database: Database) -> None:
    changed = update(Account).values(balance=9).returning(Account.name).cte("changed")
    change = Read(str, select(changed.c.name))
    async with database.session():
        with pytest.raises(RuntimeError, match="committed by itself"):
            await queries.all(change)
    assert await balances(queries) == {"a": 0, "b": 0}
    assert sorted(await queries.all(change)) == ["a", "b"]
    assert await balances(queries) == {"a": 9, "b": 9}


<% endif %>
async def test_what_was_committed_alone_is_not_run_again(
    queries: Queries, database: Database
) -> None:
    async def create_and_lose() -> None:
        await queries.create(CREATE, name=f"run {next(runs)}")
        async with database.session() as session:
            await session.execute(text(routes.FAIL.format(CONFLICT)))

    with pytest.raises(DBAPIError):
        await retry_conflicts(create_and_lose)
    assert len(await balances(queries)) == 3


router = APIRouter(route_class=RetryRoute)
both_have_locked = asyncio.Barrier(2)
locks = count(1)


@router.post("/pay/{first}/{second}", status_code=204)
async def pay(transaction: TransactionDep, first: str, second: str) -> None:
    """Change both, in this order: two such requests deadlock in their first run."""
    for key in (first, second):
        account = await transaction.first(LOCKED, key=key)
        assert account is not None
        if next(locks) <= 2:
            await both_have_locked.wait()
        await transaction.execute(CHANGE, key=key, balance=account.balance + 1)


@router.post("/mixed", status_code=204)
async def mix(session: SessionDep, queries: QueriesDep) -> None:
    """Write by itself, while a session is open."""
    await queries.create(CREATE, name="mixed")


async def test_routes_are_run_again_after_a_conflict(queries: Queries) -> None:
    async with started(router) as (client, _):
        paid = await asyncio.gather(client.post("/pay/a/b"), client.post("/pay/b/a"))
        assert [response.status_code for response in paid] == [204, 204]
        # Each was done once; one of them, a deadlock's victim, was run twice.
        assert await balances(queries) == {"a": 2, "b": 2}
        assert next(locks) > 5
        with pytest.raises(RuntimeError, match="committed by itself"):
            await client.post("/mixed")
    assert await balances(queries) == {"a": 2, "b": 2}
