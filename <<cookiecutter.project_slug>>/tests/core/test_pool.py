"""The pool under everything that can happen to it: nothing is lost, nobody overtakes, no limit is
passed. `POOL_SEED=… pytest tests/test_pool.py` repeats a run.
"""

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core import pool as pool_module
from app.core.db import Database, DatabaseUnavailable
from app.core.driver import execute, fetch
from app.core.slots import Slot, Slots
from tests.core.conftest import be_impatient, has_closed, started

SEED = int(os.environ.get("POOL_SEED", random.randrange(10**6)))

Work = Callable[[Any], Awaitable[None]]
Use = Callable[[Database, Work], Coroutine[Any, Any, None]]

ONE = text("SELECT 1")


async def use_engine(database: Database, work: Work) -> None:
    """Check a connection out as SQLAlchemy's users do."""
    async with database.engine.connect() as connection:
        await work((await connection.get_raw_connection()).driver_connection)


async def use_pool(database: Database, work: Work) -> None:
    """Check a connection out as single statements do."""
    connection = await database.pool.acquire()
    try:
        await work(connection.driver_connection)
    finally:
        await database.pool.release(connection)


USES = [use_engine, use_pool]


async def run(driver: Any) -> None:
    """Have a connection answer."""
    assert await fetch(driver, "SELECT 1", ())


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("overflow", [0, 2])
async def test_waiters_are_served_in_the_order_they_came(use: Use, overflow: int) -> None:
    served: list[int] = []
    async with started(pool_size=1, max_overflow=overflow, pool_timeout=30) as (_, database):
        held = [await database.pool.acquire() for _ in range(1 + overflow)]

        async def wait(number: int) -> None:
            async def note(_: Any) -> None:
                served.append(number)

            await (use, USES[number % 2])[number % 3 == 0](database, note)

        waiters = []
        for number in range(9):
            waiters.append(asyncio.create_task(wait(number)))
            await asyncio.sleep(0)
        waiters[4].cancel()
        # One of them goes from hand to hand.
        await database.pool.release(held.pop())
        await asyncio.gather(*waiters, return_exceptions=True)
        for connection in held:
            await database.pool.release(connection)

        assert served == [0, 1, 2, 3, 5, 6, 7, 8]
        assert database.pool.checkedout() == 0


async def is_handed_over(database: Database, work: Work) -> bool:
    """Return whether the first in line gets the connection of who leaves as it is."""
    pool = database.pool
    held = await pool.acquire()
    waiter = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    await work(held.driver_connection)
    await pool.release(held)
    got = await waiter
    await run(got.driver_connection)
    assert pool.checkedout() == 1
    await pool.release(got)
    assert (pool.checkedout(), pool.checkedin(), pool.is_full) == (0, 1, False)
    return got is held


async def test_only_an_idle_connection_goes_from_hand_to_hand() -> None:
    async def leave_open(driver: Any) -> None:
        await execute(driver, "BEGIN")

    async with started(pool_size=1, pool_timeout=30) as (_, database):

        async def close(driver: Any) -> None:
            database.pool.cut_off([driver])

        assert await is_handed_over(database, run)
        assert not await is_handed_over(database, leave_open)
        assert not await is_handed_over(database, close)
        assert await is_handed_over(database, run)


async def test_the_pool_sees_a_connection_every_second_and_listeners_each_holder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[object] = []

    def hear(*said: object) -> None:
        heard.append(said)

    async with started(pool_size=1, pool_timeout=30) as (_, database):
        with monkeypatch.context() as patched:
            patched.setattr(pool_module, "HAND_OVER_LIMIT", 0)
            assert not await is_handed_over(database, run)
        for name in "checkout", "checkin":
            assert await is_handed_over(database, run)
            event.listen(database.pool, name, hear)
            assert not await is_handed_over(database, run)
            event.remove(database.pool, name, hear)
        assert len(heard) == 4


async def test_two_given_back_at_once_are_both_kept_track_of() -> None:
    async with started(pool_size=1, max_overflow=1, pool_timeout=30) as (_, database):
        pool = database.pool
        first, second = await pool.acquire(), await pool.acquire()
        waiter = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        first.close()
        await pool.release(second)
        await pool.release(await waiter)

        assert pool.checkedout() == 0
        both = [await pool.acquire(), await pool.acquire()]
        assert pool.checkedout() == 2
        for connection in both:
            await pool.release(connection)


async def test_a_cancelled_waiter_leaves_no_more_open_than_the_pool_keeps() -> None:
    async with started(pool_size=1, max_overflow=1, pool_timeout=30) as (_, database):
        pool = database.pool
        first, second = await pool.acquire(), await pool.acquire()
        drivers = [first.driver_connection, second.driver_connection]
        waiter = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        await pool.release(first)
        waiter.cancel()
        await pool.release(second)
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert (pool.checkedout(), pool.checkedin()) == (0, 1)
        assert sum(map(pool_module.is_idle, drivers)) == 1


async def test_a_waiter_that_is_cancelled_while_it_is_woken_passes_it_on() -> None:
    async with started(pool_size=1, pool_timeout=30) as (_, database):
        pool = database.pool
        held = await pool.acquire()
        first = asyncio.create_task(pool.acquire())
        second = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        await pool.release(held)
        first.cancel()

        held = await second
        with pytest.raises(asyncio.CancelledError):
            await first
        # Nobody stands behind this one.
        last = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        await pool.release(held)
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
        assert (pool.checkedout(), pool.checkedin(), pool.is_full) == (0, 1, False)


@pytest.mark.parametrize("use", USES)
async def test_who_has_waited_keeps_the_place_while_a_connection_is_replaced(
    use: Use,
) -> None:
    served: list[str] = []
    async with started(pool_size=1, pool_timeout=30) as (_, database):

        async def wait(name: str) -> None:
            async def note(_: Any) -> None:
                served.append(name)

            await use(database, note)

        held = await database.pool.acquire()
        waiters = [asyncio.create_task(wait(name)) for name in "abcde"]
        await asyncio.sleep(0)
        held.invalidate()
        await database.pool.release(held)
        await asyncio.gather(*waiters)

    assert served == list("abcde")


async def test_what_comes_back_in_a_transaction_holds_no_lock() -> None:
    async with started(pool_size=1, max_overflow=0) as (_, database):
        connection = await database.pool.acquire()
        driver = connection.driver_connection
        await execute(driver, "BEGIN")
        await database.pool.release(connection)
        await has_closed(driver)
        # It is replaced.
        assert await asyncio.gather(*(database.ping() for _ in range(3))) == [None] * 3


async def test_what_is_set_for_a_connection_ends_with_it() -> None:
<% if cookiecutter.database == "postgresql" %>
    change, ask = text("SET TimeZone = '+05:00'"), text("SHOW TimeZone")
<% else %>
    change, ask = text("SET SESSION time_zone = '+05:00'"), text("SELECT @@time_zone")
<% endif %>
    async with started(pool_size=1) as (_, database):
        async with database.session() as session:
            before = await session.scalar(ask)
        async with database.engine.connect() as connection:
            await connection.execute(change)
            assert await connection.scalar(ask) != before
            await connection.commit()
            await connection.invalidate()
        async with database.session() as session:
            assert await session.scalar(ask) == before
        assert not database.pool.slots.waiting
        assert database.pool.checkedout() == 0


async def test_a_crowd_is_refused_on_the_loop_of_production_too() -> None:
    """Its timers are not asyncio's: those that are due within a millisecond know no time."""

    async def crowd() -> None:
        slots = Slots(1)
        assert await slots.acquire(1)

        async def wait(seconds: float) -> bool:
            await asyncio.sleep(seconds)
            return bool(await slots.acquire(0.05))

        late = await asyncio.gather(*(wait(number / 5000) for number in range(1000)))
        assert not any(late)
        assert slots.timeouts == 1000
        slots.release()
        assert not slots.all_taken

    await asyncio.to_thread(uvloop.run, crowd())


@pytest.mark.parametrize("use", USES)
async def test_nobody_is_refused_before_its_time(use: Use) -> None:
    async def nothing(_: Any) -> None: ...

    async with started(pool_size=1) as (_, database):
        held = await database.pool.acquire()
        be_impatient(database, 0.3)
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError, match=r"within 0\.3 s"):
            await use(database, nothing)
        assert time.monotonic() - began >= 0.29
        await database.pool.release(held)


async def nobody_has_any(database: Database) -> None:
    """See that all is given back, once the tasks are over to which cancelled ones left that."""
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=5)
    assert database.pool.checkedout() == 0, f"POOL_SEED={SEED}"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("before", ["open", "closed", "invalidated", "none"])
async def test_who_is_cancelled_at_any_turn_loses_nothing(use: Use, before: str) -> None:
    async def work(driver: Any) -> None:
<% if cookiecutter.database == "postgresql" %>
        await driver.fetch("SELECT 1")
<% else %>
        await driver.query("SELECT 1")
<% endif %>

    async def close(driver: Any) -> None:
<% if cookiecutter.database == "postgresql" %>
        driver.terminate()
<% else %>
        driver.close()
<% endif %>

    async with started(pool_size=1, max_overflow=1, pool_timeout=30) as (_, database):
        # What was raised is kept, as by a caller that looks at it: nothing hangs on its end.
        raised: list[object] = []
        for turns in sorted({int(1.3**step) for step in range(24)}):
            if before == "none":
                await database.engine.dispose()
            else:
                await use(database, close if before == "closed" else work)
            if before == "invalidated":
                connection = await database.pool.acquire()
                connection.invalidate()
                await database.pool.release(connection)
            task = asyncio.create_task(use(database, work))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            raised.append(await asyncio.gather(task, return_exceptions=True))
            await nobody_has_any(database)


@pytest.mark.parametrize("use", USES)
async def test_who_is_cancelled_while_a_connection_opens_is_cancelled(use: Use) -> None:
    async def nothing(_: Any) -> None: ...

    async with started(pool_size=1, pool_timeout=30) as (_, database):
        for turns in range(30):
            connection = await database.pool.acquire()
            connection.invalidate()
            await database.pool.release(connection)
            task = asyncio.create_task(use(database, nothing))
            for _ in range(turns):
                await asyncio.sleep(0)
            was_running = task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == was_running, turns


# What becomes of some of them, by the limit, whatever the pool and the seed.
OUTCOMES = {0.02: {"served", "expired"}, 20: {"served", "failed", "refused", "cancelled"}}


@dataclass
class Model:
    """How many may have a connection, how many have one, and what became of those who asked."""

    limit: int
    inside: int = 0
    # By their numbers in the order of arrival.
    served: list[int] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def enter(self) -> None:
        """Note that one more has a connection now."""
        self.inside += 1
        assert self.inside <= self.limit, f"{self.inside} connections (seed {SEED})"


@pytest.mark.parametrize(("size", "overflow"), [(1, 0), (1, 3), (4, 0), (3, 2)])
@pytest.mark.parametrize("limit", OUTCOMES)
async def test_whatever_happens_the_pool_stays_whole(
    size: int, overflow: int, limit: float
) -> None:
    """A hundred users: some fail, some are cancelled, some break their connection or the door."""
    rng = random.Random(f"{SEED} {size} {overflow} {limit}")
    print(f"POOL_SEED={SEED}")
    async with started(pool_size=size, max_overflow=overflow, pool_timeout=20) as (_, database):
        pool, model = database.pool, Model(size + overflow)
        # That of the wait alone: to open a connection may take longer.
        pool._timeout = limit
        held = [await pool.acquire() for _ in range(size + overflow)]
        be_impatient(database, limit)
        # Most connections are replaced at their second use.
        pool._recycle = 0.01  # type: ignore[assignment]
        arrivals, line = itertools.count(), pool.slots.acquire

        async def wait_in_line(timeout: float) -> Slot:
            number, began = next(arrivals), time.monotonic()
            has_to_wait = pool.slots.all_taken
            if not has_to_wait:
                assert all(waiter.done() for waiter, _ in pool.slots._line), "overtook"
            try:
                if slot := await line(timeout):
                    # Who need not wait may go on a turn before who was woken already.
                    if has_to_wait:
                        model.served.append(number)
                else:
                    assert time.monotonic() - began >= limit - 0.001, "refused early"
                return slot
            finally:
                assert time.monotonic() - began < limit + 5, "waited too long"

        pool.slots.acquire = wait_in_line  # type: ignore[method-assign]

        def refuse(*_: object) -> None:
            # A server that is away for some of those who open a connection.
            if rng.random() < 0.2:
                raise OSError("refused on purpose")

        event.listen(database.engine.sync_engine, "do_connect", refuse)

        async def user() -> None:
            kind = rng.choice(["read", "read", "read", "fail", "invalidate", "close", "long"])

            async def work(driver: Any) -> None:
                model.enter()
                try:
                    if kind == "fail":
                        raise LookupError
                    if kind == "close":
<% if cookiecutter.database == "postgresql" %>
                        driver.terminate()
<% else %>
                        driver.close()
<% endif %>
                        return
<% if cookiecutter.database == "postgresql" %>
                    await driver.fetch("SELECT pg_sleep(0.002)")
<% else %>
                    await driver.query("SELECT sleep(0.002)")
<% endif %>
                finally:
                    model.inside -= 1

            try:
                if kind == "invalidate":
                    connection = await pool.acquire()
                    connection.invalidate()
                    await pool.release(connection)
                elif kind == "long":
                    async with database.session() as session:
                        await session.execute(ONE)
                        await session.execute(ONE)
                else:
                    await rng.choice(USES)(database, work)
                model.outcomes["served"] += 1
            except PoolTimeoutError:
                model.outcomes["expired"] += 1
            except LookupError:
                model.outcomes["failed"] += 1
            except DatabaseUnavailable:
                model.outcomes["refused"] += 1
            except DBAPIError:
                model.outcomes["lost"] += 1
            except asyncio.CancelledError:
                model.outcomes["cancelled"] += 1
                raise

        tasks = []
        for number in range(100):
            if number == 30:
                # Until now there was nothing to be had.
                await asyncio.sleep(0.05)
                for connection in held:
                    await pool.release(connection)
            tasks.append(asyncio.create_task(user()))
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 0.004)
            if rng.random() < 0.25:
                rng.choice(tasks[-20:]).cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        event.remove(database.engine.sync_engine, "do_connect", refuse)

        unexpected = [e for e in ended if isinstance(e, Exception)]
        assert unexpected == [], f"POOL_SEED={SEED}"
        assert model.served == sorted(model.served), f"POOL_SEED={SEED}"
        assert set(model.outcomes) >= OUTCOMES[limit], model.outcomes
        await nobody_has_any(database)
        # All of it can be had again, and not one more.
        be_impatient(database, 20)
        all_of_it = [await pool.acquire() for _ in range(size + overflow)]
        served = len(model.served)
        one_more = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.01)
        assert len(model.served) == served
        for connection in all_of_it:
            await pool.release(connection)
        await pool.release(await one_more)
        assert pool.checkedout() == 0
        assert pool.checkedin() <= size
