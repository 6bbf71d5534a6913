"""Connections to the database end at any moment: after any message, or as the server pleases.

Run in a generated project, as `test_faults.py`. Whatever the moment: no answer 500, no
acknowledged write lost, no connection lost for good. `TORTURE_SEED=…` repeats a torture.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count

import pytest
from app.core.config import load_settings
from app.core.db import Database
from dev import database as databases
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError
from test_faults import IS_POSTGRESQL, Keeper, kept, report, stored, until_ready

# After so many messages at most: opening a connection takes about half of them.
MESSAGES = 40

# An error that ends the connection, as either server sends it: 57P01, or 1053 out of turn.
FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
WORDS = b"\xff" + (1053).to_bytes(2, "little") + b"#08S01Server shutdown in progress"
LAST_WORDS = (
    b"E" + (len(FIELDS) + 4).to_bytes(4, "big") + FIELDS
    if IS_POSTGRESQL
    else len(WORDS).to_bytes(3, "little") + b"\0" + WORDS
)


class Proxy:
    """Stands between the service and its database, and cuts when told to."""

    def __init__(self, keeper: Keeper) -> None:
        host = str(keeper.url.query.get("host", keeper.url.query.get("unix_socket", "")))
        self.socket = f"{host}/.s.PGSQL.{keeper.url.port or 5432}" if IS_POSTGRESQL else host
        # Whom to cut off, and after how many messages more of that side; None for nobody.
        self.cut: tuple[str, int] | None = None
        self.is_outage = False
        self.clients: set[asyncio.StreamWriter] = set()

    async def pump(
        self, who: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Hand messages on, one by one."""
        is_startup = who == "client" and IS_POSTGRESQL
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await self.message(reader, is_startup)
                is_startup = False
                if self.cut is not None and self.cut[0] == who:
                    if self.cut[1] == 0:
                        # Once, or whoever says anything from now on.
                        self.cut = self.cut if self.is_outage else None
                        break
                    self.cut = (who, self.cut[1] - 1)
                writer.write(message)

    def say_last_words(self) -> None:
        """Tell all clients what a server says that shuts down, and do not hang up yet."""
        for writer in self.clients:
            writer.write(LAST_WORDS)

    @staticmethod
    async def message(reader: asyncio.StreamReader, is_startup: bool) -> bytes:
        """Read one message of either protocol."""
        if not IS_POSTGRESQL:
            head = await reader.readexactly(4)
            return head + await reader.readexactly(int.from_bytes(head[:3], "little"))
        head = await reader.readexactly(4 if is_startup else 5)
        return head + await reader.readexactly(int.from_bytes(head[-4:], "big") - 4)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until either side ends it, or the cut does."""
        from_server, to_server = await asyncio.open_unix_connection(self.socket)
        both = {writer, to_server}
        pumps = [
            asyncio.create_task(self.pump("client", reader, to_server)),
            asyncio.create_task(self.pump("server", from_server, writer)),
        ]
        self.clients.add(writer)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for each in both:
            each.transport.abort()
        self.clients.discard(writer)


@asynccontextmanager
async def behind_proxy(
    pool_size: int, max_overflow: int = 1
) -> AsyncIterator[tuple[Keeper, Proxy, Database, AsyncClient]]:
    """Serve in this process, by a proxy to a kept server."""
    async with kept() as keeper:
        os.environ["DATABASE_URL"] = keeper.url.render_as_string(hide_password=False)
        from app.main import create_app
        from tests.core.routes import router

        proxy = Proxy(keeper)
        listening = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        query = {"ssl": "disable"} if IS_POSTGRESQL else {}
        url = make_url(keeper.url).set(host="127.0.0.1", port=port, query=query)
        settings = load_settings().model_copy(
            update={
                "database_url": url,
                "pool_size": pool_size,
                "max_overflow": max_overflow,
                "pool_timeout": 2,
                "statement_timeout": 5,
            }
        )
        app = create_app(settings)
        app.include_router(router)
        transport = ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            yield keeper, proxy, app.state.database, client
        listening.close()


@pytest.mark.parametrize("is_warm", [False, True], ids=["while opening", "while open"])
async def test_a_cut_after_any_message_costs_no_acknowledged_write(is_warm: bool) -> None:
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    acknowledged: set[str] = set()
    emails = (f"{number}@example.com" for number in count())
    async with behind_proxy(2) as (keeper, proxy, database, client):
        created = await client.post("/users", json={"email": "first@example.com"})
        path = created.headers["location"]

        async def create(where: str) -> None:
            email = next(emails)
            response = await client.post("/users", json={"email": email})
            note(where, f"POST {email}", response.status_code, response.text)
            if response.status_code == 201:
                acknowledged.add(email)

        async def ask(where: str, method: str, target: str, **more: object) -> None:
            response = await client.request(method, target, **more)  # type: ignore[arg-type]
            note(where, f"{method} {target}", response.status_code, response.text)

        def note(where: str, what: str, status: int, body: str) -> None:
            statuses[status] += 1
            if status not in {200, 201, 503, 504}:
                wrong.append(f"{where}: {what}: {status} {body}")

        for who in ("client", "server"):
            for after in range(MESSAGES + 1):
                where = f"cut of the {who} after {after}"
                if not is_warm:
                    await database.engine.dispose()
                proxy.cut, proxy.is_outage = (who, after), not is_warm
                for _ in range(2):
                    await asyncio.gather(
                        create(where),
                        ask(where, "GET", path),
                        ask(where, "PATCH", path, json={"full_name": str(after)}),
                        ask(where, "GET", "/users?limit=2"),
                        ask(where, "GET", "/echo/7"),
                    )
                proxy.cut = None
                await until_ready(client, 10)
        assert database.pool.checkedout() == 0
        answers = await asyncio.gather(*(client.get(path) for _ in range(20)))
        rows = await stored(keeper)

    report(cuts=2 * (MESSAGES + 1), statuses=statuses, acknowledged=len(acknowledged))
    assert wrong == []
    assert {answer.status_code for answer in answers} == {200}
    assert acknowledged <= set(rows)
    assert len(rows) == len(set(rows))
    assert statuses[503] > 50


async def test_the_last_words_of_a_server_are_heard_before_the_end() -> None:
    """The server ends idle connections: its error arrives at once, the end of file later."""
    statuses: Counter[int] = Counter()
    async with behind_proxy(2) as (_, proxy, database, client):
        created = await client.post("/users", json={"email": "first@example.com"})
        path = created.headers["location"]
        requests: list[tuple[str, str, dict[str, str] | None]] = [
            ("GET", path, None),
            ("PATCH", path, {"full_name": "A"}),
            ("GET", "/echo/7", None),
            ("GET", "/health/ready", None),
        ]
        for _ in range(10):
            for method, target, body in requests:
                await until_ready(client, 10)
                proxy.say_last_words()
                # They have arrived by then.
                await asyncio.sleep(0.005)
                for _ in range(2):
                    statuses[(await client.request(method, target, json=body)).status_code] += 1
        assert database.pool.checkedout() == 0

    report(last_words=statuses)
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= 20


END_SOME = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE usename = 'app' AND random() < 0.3"
)
SOME = "SELECT id FROM information_schema.processlist WHERE user = 'app' AND rand() < 0.3"


async def end_some(keeper: Keeper) -> int:
    """Have the server end about a third of the service's connections; return how many."""
    if IS_POSTGRESQL:
        return int(await databases.execute(keeper.admin, END_SOME))
    some = f"SELECT coalesce(group_concat(id), '') FROM ({SOME}) AS some"
    ids = [each for each in (await databases.execute(keeper.admin, some)).split(",") if each]
    for identifier in ids:
        # It may have ended by itself.
        with suppress(DBAPIError):
            await databases.execute(keeper.admin, f"KILL {identifier}")
    return len(ids)


@pytest.mark.parametrize(("size", "overflow"), [(1, 1), (4, 0), (2, 3)])
async def test_torture(size: int, overflow: int) -> None:
    """Thousands of requests, some cancelled at any moment, while the server ends connections."""
    seed = int(os.environ.get("TORTURE_SEED", random.randrange(10**6)))
    print(f"TORTURE_SEED={seed}")
    rng = random.Random(f"{seed} {size} {overflow}")
    statuses: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    acknowledged: set[str] = set()
    async with behind_proxy(size, overflow) as (keeper, _, database, client):
        created = await client.post("/users", json={"email": "first@example.com"})
        path = created.headers["location"]
        over = asyncio.Event()

        async def work(number: int) -> None:
            email = f"{number}@example.com"
            method, target, body = rng.choice(
                [
                    ("POST", "/users", {"email": email}),
                    ("PATCH", path, {"full_name": email}),
                    ("GET", path, None),
                    ("GET", "/users?limit=2", None),
                    ("GET", "/echo/7", None),
                    ("GET", "/health/ready", None),
                ]
            )
            response = await client.request(method, target, json=body)
            statuses[response.status_code] += 1
            if response.status_code not in {200, 201, 503, 504}:
                wrong.append(f"{method} {target}: {response.status_code} {response.text}")
            if response.status_code == 201:
                acknowledged.add(email)

        async def client_that_may_leave(numbers: Iterator[int]) -> None:
            for number in numbers:
                if over.is_set():
                    return
                outcomes["requests"] += 1
                task = asyncio.create_task(work(number))
                if rng.random() < 0.2:
                    outcomes["cancelled"] += 1
                    await asyncio.sleep(rng.random() * 0.01)
                    task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        numbers = count()
        clients = [asyncio.create_task(client_that_may_leave(numbers)) for _ in range(24)]
        for _ in range(40):
            await asyncio.sleep(0.1)
            outcomes["ended"] += await end_some(keeper)
        over.set()
        await asyncio.gather(*clients)
        await until_ready(client, 10)

        # All of it can be had at once.
        held = [await database.pool.acquire() for _ in range(size + overflow)]
        for connection in held:
            await database.pool.release(connection)
        assert database.pool.checkedout() == 0, f"TORTURE_SEED={seed}"
        rows = await stored(keeper)

    report(seed=seed, outcomes=outcomes, statuses=statuses, acknowledged=len(acknowledged))
    assert wrong == [], f"TORTURE_SEED={seed}"
    assert acknowledged <= set(rows)
    assert len(rows) == len(set(rows))
    assert statuses[503] > 0
    assert statuses[200] > 100
