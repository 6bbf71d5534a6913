"""What a generated service does when its database dies, freezes, refuses, or changes its mind.

Run in a generated project, by its own Python: real servers, real processes, real HTTP.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.core.urls import DRIVER
from dev import database as databases
from dev import server
from httpx2 import AsyncClient, Limits, TransportError
from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.process import PROJECT, Process, serve

HERE = Path(__file__).parent
IS_POSTGRESQL = hasattr(server, "open_to_all")
ALL_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"
    if IS_POSTGRESQL
    else "SELECT count(*) FROM information_schema.processlist WHERE user = 'app'"
)


@dataclass
class Keeper:
    """A server that is started again when it dies."""

    url: URL
    pid: int
    admin: URL
    process: asyncio.subprocess.Process

    async def started(self) -> None:
        """Wait for the next start."""
        assert self.process.stdout is not None
        self.pid = json.loads(await self.process.stdout.readline())["pid"]

    def backends(self) -> list[int]:
        """Return the processes that serve connections: of MariaDB, the server itself."""
        if not IS_POSTGRESQL:
            return [self.pid]
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.pid)], capture_output=True, text=True
        )
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if ": app " in line]

    async def kill_backends(self) -> None:
        """Kill all of them without a warning, and wait until the server takes care of it."""
        for pid in self.backends():
            # After the first, PostgreSQL itself ends the others.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not IS_POSTGRESQL:
            await self.started()


@asynccontextmanager
async def kept(*options: str) -> AsyncIterator[Keeper]:
    """Keep a server with an empty database that an ordinary user owns."""
    folder = Path(tempfile.mkdtemp(prefix="db-", dir="/tmp"))
    server.own(folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "keeper.py"), str(folder), *options),
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        admin = make_url(first["url"])
        statements = (
            ["CREATE ROLE app LOGIN", "CREATE DATABASE faults OWNER app"]
            if IS_POSTGRESQL
            else [
                "CREATE DATABASE faults",
                "CREATE USER app@localhost",
                "GRANT ALL ON faults.* TO app@localhost",
            ]
        )
        for statement in statements:
            await databases.execute(admin, statement)
        url = admin.set(username="app", database="faults")
        keeper = Keeper(url, first["pid"], admin.set(database="faults"), process)
        await migrate(keeper)
        yield keeper
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def migrate(keeper: Keeper, *words: str) -> tuple[int, str]:
    """Run Alembic, by default to make the tables; return its exit code and what it said."""
    alembic = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", *(words or ("upgrade", "head"))),
        cwd=PROJECT,
        env=os.environ | {"DATABASE_URL": keeper.url.render_as_string(hide_password=False)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await alembic.communicate()
    if not words:
        assert alembic.returncode == 0, said
    return alembic.returncode or 0, said.decode()


@asynccontextmanager
async def served(
    keeper: Keeper, application: str = "tests.core.routes:app", **settings: str
) -> AsyncIterator[tuple[Process, AsyncClient]]:
    """Serve on the kept server, by default with routes that get into trouble."""
    url = keeper.url.render_as_string(hide_password=False)
    limits = Limits(max_connections=100)
    with serve(application, DATABASE_URL=url, **settings) as process:
        async with AsyncClient(base_url=process.url, timeout=60, limits=limits) as client:
            yield process, client


async def until_ready(client: AsyncClient, limit: float) -> float:
    """Wait until the service is ready; return the seconds that took."""
    began = time.monotonic()
    while (await client.get("/health/ready")).status_code != 200:
        assert time.monotonic() - began < limit
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def stop(pids: set[int]) -> None:
    """Have processes stand still: on a busy machine a thread runs on for a moment."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for thread in [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/stat")]:
        while thread.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)


def report(**figures: object) -> None:
    """Print figures for people who read the output."""
    print(f"FIGURES {json.dumps(figures)}", flush=True)


@asynccontextmanager
async def writers(
    client: AsyncClient, count: int
) -> AsyncIterator[tuple[Counter[int], set[str], set[str]]]:
    """Write without a pause by many clients that repeat what is told 503 or 504.

    Such a client cannot know whether its row was stored. The e-mail is a key of its own, which the
    table holds unique: 409 tells that it was. Gives the statuses, the e-mails that were told 201,
    and those whose request came to its end, by 201 or by 409 after a repetition.
    """
    statuses: Counter[int] = Counter()
    acknowledged: set[str] = set()
    settled: set[str] = set()
    over = asyncio.Event()

    async def write(writer: int) -> None:
        number, is_repeated = 0, False
        # What was begun is brought to its end.
        while not over.is_set() or is_repeated:
            email = f"{writer}-{number}@example.com"
            response = await client.post("/users", json={"email": email})
            statuses[response.status_code] += 1
            if response.status_code == 201:
                acknowledged.add(email)
            if response.status_code in {201, 409}:
                # Nobody else has this key.
                assert is_repeated or response.status_code == 201
                settled.add(email)
                number += 1
            is_repeated = response.status_code not in {201, 409}

    async with asyncio.TaskGroup() as group:
        for writer in range(count):
            group.create_task(write(writer))
        yield statuses, acknowledged, settled
        over.set()


async def busy(keeper: Keeper) -> int:
    """Return how many of the service's connections run a statement."""
    active = "state <> 'idle'" if IS_POSTGRESQL else "command <> 'Sleep'"
    return int(await databases.execute(keeper.admin, f"{ALL_CONNECTIONS} AND {active}"))


async def stored(keeper: Keeper) -> list[str]:
    """Return all e-mails in the database."""
    engine = create_async_engine(keeper.admin)
    async with engine.connect() as connection:
        emails = list(await connection.scalars(text("SELECT email FROM users")))
    await engine.dispose()
    return emails


async def test_nothing_is_lost_when_all_backends_are_killed_five_times() -> None:
    async with kept() as keeper, served(keeper, POOL_TIMEOUT="1") as (_, client):
        recoveries = []
        async with writers(client, 40) as (statuses, acknowledged, settled):
            for _ in range(5):
                await asyncio.sleep(1)
                killed = time.monotonic()
                await keeper.kill_backends()
                await asyncio.sleep(0.2)
                await until_ready(client, 20)
                recoveries.append(time.monotonic() - killed)
            await asyncio.sleep(1)
        rows = await stored(keeper)
        report(
            acknowledged=len(acknowledged),
            found_by_repeating=len(settled - acknowledged),
            lost=len(acknowledged - set(rows)),
            twice=len(rows) - len(set(rows)),
            statuses=statuses,
            seconds_to_recover=[round(seconds, 2) for seconds in recoveries],
        )

        assert len(acknowledged) > 100
        assert acknowledged <= set(rows)
        # One row for each request of a client that repeats, and none that nobody asked for.
        assert sorted(rows) == sorted(settled)
        assert set(statuses) <= {201, 409, 503, 504}
        assert statuses[503] + statuses[504] > 0
        assert {(await client.get("/users")).status_code for _ in range(50)} == {200}


async def test_a_restart_in_order_is_survived() -> None:
    async with kept() as keeper, served(keeper) as (process, client):
        assert (await client.get("/users")).status_code == 200
        os.kill(keeper.pid, server.STOP)
        await keeper.started()

        # Pooled connections are gone: nobody is told so.
        answers = await asyncio.gather(*(client.get("/users") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        assert process.child.poll() is None


async def test_a_frozen_server_is_answered_for_and_survived() -> None:
    async with (
        kept() as keeper,
        served(keeper, STATEMENT_TIMEOUT="1", POOL_TIMEOUT="1", POOL_SIZE="5") as (_, client),
    ):
        await asyncio.gather(*(client.get("/users") for _ in range(20)))
        frozen = {keeper.pid, *keeper.backends()}
        stop(frozen)
        try:
            began = time.monotonic()
            assert (await client.get("/health/ready")).status_code == 503
            # Two seconds for the answer, and two until the driver gives the connection up.
            assert time.monotonic() - began < 5
            began = time.monotonic()
            answers = await asyncio.gather(
                *(client.get("/users") for _ in range(10)),
                *(client.post("/users", json={"email": f"{n}@example.com"}) for n in range(10)),
                client.get("/health/ready"),
            )
            took = time.monotonic() - began
            assert (await client.get("/health/live")).status_code == 200
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        report(frozen_answered_within=round(took, 1))

        assert {answer.status_code for answer in answers} <= {503, 504}
        assert took < 30
        await until_ready(client, 20)
        assert (await client.get("/users")).status_code == 200


async def test_too_many_connections_are_answered_503() -> None:
    limit = ["-c", "max_connections=10"] if IS_POSTGRESQL else ["--max-connections=10"]
    async with kept(*limit) as keeper, served(keeper, POOL_SIZE="30") as (process, client):
        answers = await asyncio.gather(*(client.get("/sleep/0.3") for _ in range(30)))

        assert {answer.status_code for answer in answers} == {200, 503}
        assert {answer.headers.get("retry-after") for answer in answers} == {None, "1"}
        assert "the server allows" in process.log.read_text()
        assert (await client.get("/users")).status_code == 200


async def test_a_server_that_became_read_only_is_answered_for() -> None:
    async with kept() as keeper, served(keeper) as (_, client):
        assert (await client.post("/users", json={"email": "a@example.com"})).status_code == 201
        for switch, status in (("on", 503), ("off", 201)):
            statements = (
                [f"ALTER SYSTEM SET default_transaction_read_only = {switch}",
                 "SELECT pg_reload_conf()"]
                if IS_POSTGRESQL
                else [f"SET GLOBAL read_only = {switch}"]
            )  # fmt: skip
            for statement in statements:
                await databases.execute(keeper.admin, statement)
            await asyncio.sleep(0.3)
            write = await client.post("/users", json={"email": "b@example.com"})
            assert write.status_code == status, write.text
            assert (await client.get("/users")).status_code == 200


async def test_sigterm_ends_in_order() -> None:
    async with kept() as keeper, served(keeper) as (process, client):
        assert (await client.get("/health/ready")).status_code == 200
        under_way = asyncio.create_task(client.get("/sleep/3"))
        await asyncio.sleep(0.5)
        began = time.monotonic()
        process.child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)

        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"detail": "Shutting down"})
        assert (await client.get("/users")).status_code == 200
        assert (await under_way).json() == {"slept": 3.0}
        await asyncio.to_thread(process.child.wait)
        report(seconds_from_sigterm_to_the_end=round(time.monotonic() - began, 1))

        assert time.monotonic() - began < 10
        assert await databases.execute(keeper.admin, ALL_CONNECTIONS) == "0"
        assert "Traceback" not in process.log.read_text()


async def test_clients_that_hang_up_leak_no_connection() -> None:
    async with kept() as keeper, served(keeper, POOL_SIZE="10") as (_, client):

        async def hang_up(number: int) -> None:
            """Close the connection in the middle of a request."""
            path = f"/echo/{number}" if number % 2 else "/users"
            host, port = str(client.base_url).removeprefix("http://").rstrip("/").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.001 * (number % 50))
            writer.transport.abort()

        for start in range(0, 300, 30):
            await asyncio.gather(*map(hang_up, range(start, start + 30)))
        await asyncio.sleep(1)

        numbers = range(1000, 1100)
        answers = await asyncio.gather(*(client.get(f"/echo/{number}") for number in numbers))
        assert [int(answer.text) for answer in answers] == list(numbers)
        connections = int(await databases.execute(keeper.admin, ALL_CONNECTIONS))
        still_busy = await busy(keeper)
        report(hung_up=300, connections=connections, of_pool=10, busy=still_busy)
        assert connections <= 10
        assert still_busy == 0


async def test_a_killed_service_leaves_no_query_running() -> None:
    # PostgreSQL looks every second whether the client is there; MariaDB has its limit alone.
    limit = "30" if IS_POSTGRESQL else "2"
    async with kept() as keeper, served(keeper, STATEMENT_TIMEOUT=limit) as (process, client):
        request = asyncio.create_task(client.get("/sleep/20"))
        await asyncio.sleep(0.5)
        assert await busy(keeper) == 1
        process.child.kill()
        await asyncio.to_thread(process.child.wait)
        with suppress(TransportError):
            await request
        killed = time.monotonic()
        while await busy(keeper):
            assert time.monotonic() - killed < 5
            await asyncio.sleep(0.2)


async def test_a_migration_does_not_wait_for_ever() -> None:
    async with kept() as keeper:
        engine = create_async_engine(keeper.admin)
        async with engine.begin() as reader:
            # A transaction that has read a table keeps others from dropping it.
            await reader.execute(text("SELECT * FROM users"))
            began = time.monotonic()
            code, said = await migrate(keeper, "downgrade", "base")
            waited = time.monotonic() - began
        await engine.dispose()

        assert code != 0
        assert "lock" in said.lower()
        assert 9 < waited < 30
        code, said = await migrate(keeper, "downgrade", "base")
        assert code == 0, said


async def test_a_replica_waits_for_another_that_migrates() -> None:
    take, release = (
        ("SELECT pg_advisory_lock(hashtext('alembic'))", "SELECT pg_advisory_unlock_all()")
        if IS_POSTGRESQL
        else ("INSERT INTO alembic_lock VALUES (1, 'another', 0)", "DELETE FROM alembic_lock")
    )
    async with kept() as keeper:
        await migrate(keeper, "downgrade", "base")
        engine = create_async_engine(keeper.admin)
        async with engine.connect() as other:
            await other.execute(text(take))
            await other.commit()
            replica = asyncio.create_task(migrate(keeper))
            await asyncio.sleep(2)
            assert not replica.done()
            await other.execute(text(release))
            await other.commit()
        await engine.dispose()
        assert (await replica)[0] == 0
        assert await stored(keeper) == []


async def test_three_replicas_migrate_at_once() -> None:
    async with kept() as keeper:
        await migrate(keeper, "downgrade", "base")
        replicas = await asyncio.gather(*(migrate(keeper, "upgrade", "head") for _ in range(3)))
        assert [code for code, _ in replicas] == [0, 0, 0], replicas
        assert (await migrate(keeper, "check"))[0] == 0


def test_importing_the_application_opens_no_connection() -> None:
    # An audit hook sees every connection, and every look at a name server.
    script = """
import sys
network = ("socket.connect", "socket.get")
sys.addaudithook(lambda event, _: event.startswith(network) and exit(event))
import app.main
"""
    imported = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=os.environ | {"DATABASE_URL": f"{DRIVER}://user:x@db.invalid/name"},
        capture_output=True,
        text=True,
    )

    assert (imported.returncode, imported.stderr) == (0, "")


async def test_a_wrong_setting_stops_the_server_with_one_line() -> None:
    url = f"{DRIVER}://user:correct-horse@127.0.0.1:1/name"
    server_process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "app.main:app", "--port", "0"),
        cwd=PROJECT,
        env=os.environ | {"DATABASE_URL": url, "POOL_SIZE": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await server_process.communicate()
    assert server_process.returncode != 0
    assert said.decode() == (
        "Wrong settings: POOL_SIZE: Input should be greater than or equal to 1\n"
    )


async def test_the_openapi_document_is_true() -> None:
    """Schemathesis makes requests from the document, valid and not, and holds the answers to it."""
    async with kept() as keeper, served(keeper, "app.main:app") as (process, _):
        schemathesis = await asyncio.create_subprocess_exec(
            *(os.environ["SCHEMATHESIS"], "run", f"{process.url}/openapi.json"),
            # The same requests each time: a test that fails by chance is nobody's friend.
            *("--checks", "all", "--max-examples", "100", "--seed", "1"),
            cwd=process.log.parent,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await schemathesis.communicate()
        said = output.decode()
        found = re.search(r"(\d+) generated", said)
        report(schemathesis_requests=found and int(found[1]))

        assert schemathesis.returncode == 0, said
        assert found is not None
        assert int(found[1]) > 500
        assert "7 selected / 7 total" in said
        assert "Traceback" not in process.log.read_text()
