"""A service with a replica that answers its reads: what it promises, and what comes of faults."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from httpx2 import AsyncClient, Limits
from programs import IS_POSTGRESQL, until
from replicas import replicated
from tests.process import serve

COUNT = 60


@asynccontextmanager
async def served(*workers: str, **settings: str) -> AsyncIterator[list[AsyncClient]]:
    """Serve by some workers, each a process of its own; clients that keep nothing."""
    limits = Limits(max_connections=100)
    with serve(**settings) as one, serve(**settings) as other:
        async with (
            AsyncClient(base_url=one.url, timeout=60, limits=limits) as first,
            AsyncClient(base_url=other.url, timeout=60, limits=limits) as second,
        ):
            yield [first, second]


async def status(client: AsyncClient) -> str:
    """Return what readiness says, which stays 200."""
    response = await client.get("/health/ready")
    assert response.status_code == 200, response.text
    said: str = response.json()["status"]
    return said


async def is_ok(client: AsyncClient) -> bool:
    """Return whether reads go to the replica."""
    return await status(client) == "ok"


async def is_degraded(client: AsyncClient) -> bool:
    """Return whether reads go to the primary, though there is a replica."""
    return await status(client) == "degraded"


async def write_and_read(writer: AsyncClient, reader: AsyncClient, number: int) -> list[str]:
    """Create, read, change, read, list, delete, read; return what was not as it was told."""
    wrong = []
    email = f"{number}@example.org"
    created = await writer.post("/users", json={"email": email})
    assert created.status_code == 201, created.text
    location = created.headers["location"]
    if (await reader.get(location)).status_code != 200:
        wrong.append("created, and not found")
    changed = await writer.patch(location, json={"full_name": f"name of {number}"})
    assert changed.status_code == 200, changed.text
    if (await reader.get(location)).json().get("full_name") != f"name of {number}":
        wrong.append("changed, and read as before")
    listed = (await reader.get("/users")).json()["items"]
    if [user["email"] for user in listed] != [email]:
        wrong.append("created, and not in the list")
    assert (await writer.delete(location)).status_code == 204
    if (await reader.get(location)).status_code != 404:
        wrong.append("deleted, and still there")
    return wrong


async def test_whoever_reads_finds_what_was_written() -> None:
    # MariaDB's replicas are late by themselves.
    late = ["recovery_min_apply_delay=20ms"] if IS_POSTGRESQL else []
    async with replicated(*late) as pair, served(**pair.urls) as (one, other):
        assert await is_ok(one)
        assert await is_ok(other)
        wrong = []
        for number in range(COUNT):
            wrong += await write_and_read(one, other, number)
        assert wrong == []


async def test_a_replica_that_falls_behind_is_not_read_until_it_has_caught_up() -> None:
    async with replicated() as pair, served(**pair.urls) as (one, other):
        assert await is_ok(one)
        assert await is_ok(other)
        await pair.pause()
        began = asyncio.get_running_loop().time()
        # By the very first as by the last: a write waits until nobody reads from the replica.
        for number in range(5):
            assert await write_and_read(one, other, number) == []
        assert await status(one) == await status(other) == "degraded"
        # Only the first ones wait.
        assert asyncio.get_running_loop().time() - began < 10

        await pair.resume()
        await until(lambda: is_ok(one))
        await until(lambda: is_ok(other))
        for number in range(10, 20):
            assert await write_and_read(one, other, number) == []


@dataclass
class Reader:
    """Somebody who reads all the time, and what that came to."""

    client: AsyncClient
    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0

    async def read(self) -> None:
        """Read until cancelled."""
        while True:
            began = time.monotonic()
            response = await self.client.get("/users/1")
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers[response.status_code] += 1


@asynccontextmanager
async def reading(client: AsyncClient, count: int = 8) -> AsyncIterator[Reader]:
    """Read by so many tasks for the length of the block."""
    reader = Reader(client)
    tasks = [asyncio.create_task(reader.read()) for _ in range(count)]
    try:
        yield reader
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    print(f"reads: {dict(reader.answers)}, the slowest took {reader.slowest:.2f} s")


async def test_without_its_replica_a_service_reads_from_the_primary() -> None:
    async with replicated() as pair, served(**pair.urls) as (one, _):
        await one.post("/users", json={"email": "one@example.org"})
        async with reading(one) as reader:
            await pair.replica.program.kill()
            await until(lambda: is_degraded(one))
            await asyncio.sleep(1)
            await pair.replica.program.start()
            back = await until(lambda: is_ok(one))
        assert reader.answers.keys() == {200}
        assert reader.slowest < 1
        print(f"the replica was read from again after {back:.1f} s")


async def test_a_start_without_the_replica_serves() -> None:
    async with replicated() as pair:
        await pair.replica.program.kill()
        async with served(**pair.urls) as (one, _):
            assert await status(one) == "degraded"
            assert await write_and_read(one, one, 1) == []
            await pair.replica.program.start()
            await until(lambda: is_ok(one))


async def test_a_replica_that_falls_silent_costs_no_read() -> None:
    async with replicated() as pair, served(**pair.urls) as (one, _):
        await one.post("/users", json={"email": "one@example.org"})
        async with reading(one) as reader:
            await asyncio.sleep(0.5)
            pair.replica.program.signal(signal.SIGSTOP)
            await until(lambda: is_degraded(one))
            await asyncio.sleep(8)
            pair.replica.program.signal(signal.SIGCONT)
            await until(lambda: is_ok(one))
        assert reader.answers.keys() == {200}
        assert reader.slowest < 6


async def test_without_its_primary_a_service_still_reads() -> None:
    async with replicated() as pair, served(**pair.urls) as (one, _):
        await one.post("/users", json={"email": "one@example.org"})
        async with reading(one) as reader:
            await pair.primary.program.kill()
            await asyncio.sleep(3)
            assert (await one.get("/health/ready")).status_code == 503
            refused = await one.post("/users", json={"email": "two@example.org"})
            assert refused.status_code == 503
        assert reader.answers.keys() == {200}
