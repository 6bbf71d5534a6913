"""A service whose URL names several hosts, when the primary falls silent and another takes over."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from app.core.urls import DRIVER
from httpx2 import AsyncClient, Limits, Response
from programs import until
from replicas import Pair, replicated
from tests.process import serve


@dataclass
class Writers:
    """Some who write all the time, each the next row after the answer to the last."""

    client: AsyncClient
    answers: Counter[int] = field(default_factory=Counter)
    stored: list[str] = field(default_factory=list)
    slowest: float = 0

    async def write(self, name: int) -> None:
        """Write until cancelled."""
        number = 0
        while True:
            number += 1
            email = f"{name}-{number}@example.org"
            response = await self.send("POST", "/users", json={"email": email})
            if response.status_code == 201:
                self.stored.append(email)
                # A transaction, and a session.
                await self.send("PATCH", response.headers["location"], json={"full_name": "x"})
                await self.send("DELETE", "/users/1000000000")

    async def send(self, *words: str, **more: object) -> Response:
        """Send a request; note the answer, and wait a little after one that says so."""
        began = time.monotonic()
        response = await self.client.request(*words, **more)  # type: ignore[arg-type]
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers[response.status_code] += 1
        if response.status_code == 503:
            assert "retry-after" in response.headers
            await asyncio.sleep(0.1)
        return response


@asynccontextmanager
async def writing(client: AsyncClient, count: int) -> AsyncIterator[Writers]:
    """Write by so many tasks for the length of the block."""
    writers = Writers(client)
    tasks = [asyncio.create_task(writers.write(number)) for number in range(count)]
    try:
        yield writers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def url_of_both(pair: Pair) -> str:
    """Return a URL of whichever is the primary, as libpq writes it."""
    hosts = f"127.0.0.1:{pair.primary.port},127.0.0.1:{pair.replica.port}"
    return f"{DRIVER}://app@{hosts}/app?target_session_attrs=read-write&sslmode=disable"


@asynccontextmanager
async def served(**settings: str) -> AsyncIterator[AsyncClient]:
    """Serve the application; give a client of it."""
    limits = Limits(max_connections=100)
    with serve(**settings) as process:
        async with AsyncClient(base_url=process.url, timeout=60, limits=limits) as client:
            yield client


async def test_a_silent_primary_costs_seconds_and_no_row() -> None:
    async with replicated() as pair:
        # What is acknowledged is on the replica, too.
        await pair.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await pair.primary.execute("SELECT pg_reload_conf()")
        async with (
            served(DATABASE_URL=url_of_both(pair)) as client,
            # More than there are connections: all of them are in use, and others wait.
            writing(client, 40) as writers,
        ):
            await asyncio.sleep(1)
            pair.primary.program.signal(signal.SIGSTOP)
            await asyncio.sleep(2)
            await pair.promote()
            promoted = time.monotonic()
            before = len(writers.stored)

            async def writes_again() -> bool:
                return len(writers.stored) > before

            await until(writes_again)
            back = time.monotonic() - promoted
            await asyncio.sleep(3)
            refused = writers.answers[503]
            await asyncio.sleep(1)
            assert writers.answers[503] == refused
        print(f"{dict(writers.answers)}, back after {back:.1f} s, slowest {writers.slowest:.1f} s")
        assert writers.answers.keys() == {200, 201, 404, 503}
        assert back < 10
        assert writers.slowest < 10
        stored = await pair.replica.execute("SELECT string_agg(email, ' ') FROM users")
        assert set(writers.stored) <= set(stored.split())
