"""A service behind PgBouncer in transaction mode: each transaction may get another connection."""

import asyncio
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from programs import (
    Node,
    copy_project,
    free_port,
    migrate,
    migrating,
    pgbouncer,
    postgresql,
    report,
    served,
    short_folder,
    until,
)
from sqlalchemy import URL, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.process import Process

# The second one to run one of these fails: what it makes is there.
REVISION = """
from alembic import op
revision, down_revision = "1a57", "{head}"
def upgrade() -> None:
    op.execute("SELECT pg_sleep(2)")
    op.execute("CREATE TABLE made_once (number integer)")
def downgrade() -> None:
    op.execute("DROP TABLE made_once")
"""
AUTOCOMMIT_REVISION = """
from alembic import op
revision, down_revision = "1a58", "1a57"
def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SELECT pg_sleep(1)")
        op.execute("CREATE INDEX CONCURRENTLY ix_made_once ON made_once (number)")
        op.execute("SELECT pg_sleep(1)")
    op.execute("ALTER TABLE made_once ADD COLUMN more integer")
def downgrade() -> None:
    op.execute("ALTER TABLE made_once DROP COLUMN more")
    op.execute("DROP INDEX ix_made_once")
"""

# What a migration must not leave on connections that others get.
LEFT_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@asynccontextmanager
async def traffic(url: URL) -> AsyncIterator[None]:
    """Have other clients ask all the time, so that connections change hands."""
    engine = create_async_engine(url, poolclass=NullPool)
    over = asyncio.Event()

    async def ask() -> None:
        async with engine.connect() as connection:
            while not over.is_set():
                await connection.scalar(text("SELECT pg_sleep(0.001)"))
                await connection.rollback()

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask())
        yield
        over.set()


async def limits_left(node: Node, url: URL) -> set[str]:
    """Return the limit for table locks of all the pooler's connections to the server."""
    engine = create_async_engine(url, pool_size=20)
    connections = [await engine.connect() for _ in range(10)]
    # Each in a transaction, so that each has a connection of its own.
    limits = {str(await each.scalar(text("SHOW lock_timeout"))) for each in connections}
    for each in connections:
        await each.close()
    await engine.dispose()
    return limits


async def is_asleep(node: Node) -> bool:
    """Return whether a revision waits for long."""
    asleep = "query LIKE '%pg_sleep(3600)%' AND state = 'active' AND pid <> pg_backend_pid()"
    return await node.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {asleep}") == "1"


async def test_of_three_replicas_one_migrates_and_nothing_is_left_behind() -> None:
    async with postgresql() as node, pgbouncer(node, default_pool_size=10) as url:
        with short_folder() as folder:
            project = copy_project(folder / "project")
            assert (await migrate(url, folder=project))[0] == 0
            head = await node.execute("SELECT version_num FROM alembic_version")
            versions = project / "migrations" / "versions"
            (versions / "last.py").write_text(REVISION.format(head=head))
            (versions / "really_last.py").write_text(AUTOCOMMIT_REVISION)
            async with traffic(url):
                for _ in range(2):
                    replicas = await asyncio.gather(
                        *(migrate(url, folder=project) for _ in range(3))
                    )
                    assert [code for code, _ in replicas] == [0, 0, 0], replicas
                    assert sum("-> 1a58" in said for _, said in replicas) == 1
                    assert await node.execute(LEFT_LOCKS) == "0"
                    assert await limits_left(node, url) == {"0"}
                    code, said = await migrate(url, "downgrade", head, folder=project)
                    assert code == 0, said


async def test_a_killed_migration_leaves_no_lock() -> None:
    async with postgresql() as node, pgbouncer(node) as url:
        with short_folder() as folder:
            project = copy_project(folder / "project")
            assert (await migrate(url, folder=project))[0] == 0
            head = await node.execute("SELECT version_num FROM alembic_version")
            last = project / "migrations" / "versions" / "last.py"
            last.write_text(REVISION.format(head=head).replace("pg_sleep(2)", "pg_sleep(3600)"))
            doomed = await migrating(url, folder=project)
            await until(lambda: is_asleep(node))
            doomed.kill()
            await doomed.wait()
            last.write_text(REVISION.format(head=head))
            code, said = await asyncio.wait_for(migrate(url, folder=project), 60)
            assert code == 0, said


# Each type is another one on the wire.
CHANGES = [
    "ALTER TABLE users ALTER COLUMN full_name TYPE text",
    "ALTER TABLE users ALTER COLUMN full_name TYPE varchar(300)",
    "ALTER TABLE users ALTER COLUMN created_at TYPE timestamp",
    "ALTER TABLE users ALTER COLUMN created_at TYPE timestamptz",
]


async def test_a_changed_type_is_no_end_of_answers() -> None:
    async with (
        postgresql() as node,
        pgbouncer(node) as url,
    ):
        assert (await migrate(url))[0] == 0
        async with served(url, POOL_SIZE="10") as (process, client):
            created = await client.post("/users", json={"email": "a@example.com"})
            path = created.headers["location"]
            asked: list[tuple[str, str, dict[str, object]]] = [
                ("GET", path, {}),
                ("GET", "/users", {}),
                ("PATCH", path, {"json": {"full_name": "A"}}),
                ("GET", f"/once{path}", {}),
                ("GET", f"/again{path}", {}),
                ("POST", f"/again{path}", {"params": {"full_name": "B"}}),
            ]
            statuses: Counter[tuple[str, str, int]] = Counter()
            over = asyncio.Event()

            async def ask(client_number: int) -> None:
                while not over.is_set():
                    for method, where, more in asked:
                        answer = await client.request(method, where, **more)  # type: ignore[arg-type]
                        statuses[method, where, answer.status_code] += 1

            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(ask(number))
                await asyncio.sleep(1)
                for change in CHANGES:
                    await node.execute(change)
                    await asyncio.sleep(1)
                over.set()
            report(statuses={" ".join(map(str, key)): n for key, n in statuses.items()})
            assert {status for *_, status in statuses} <= {200, 503}
            assert "Traceback" not in process.log.read_text()
            for method, where, more in asked:
                answer = await client.request(method, where, **more)  # type: ignore[arg-type]
                assert answer.status_code == 200, answer.text
                # A route that is run once tells each client once.
                assert statuses[method, where, 503] <= 8 * len(CHANGES)


def workers_of(process: Process) -> set[int]:
    """Return the processes that serve."""
    words = ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(process.child.pid)]
    listed = subprocess.run(words, capture_output=True, text=True).stdout
    return {int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line}


async def test_workers_are_replaced_and_end_in_order() -> None:
    async with postgresql() as node, pgbouncer(node) as url:
        assert (await migrate(url))[0] == 0
        await node.execute("INSERT INTO users (email) VALUES ('a@example.com')")
        # With workers uvicorn does not say which port it has chosen.
        options = ["--workers", "2", "--port", str(free_port())]
        # A busy machine is not a dead worker.
        options += ["--timeout-worker-healthcheck", "60"]
        async with served(url, *options, POOL_SIZE="5") as (process, client):

            async def is_ready() -> bool:
                return (await client.get("/health/ready")).status_code == 200

            async def is_draining() -> bool:
                return "Shutting down" in (await client.get("/health/ready")).text

            async def both_are_others() -> bool:
                return len(workers_of(process) - before) == 2 and await is_ready()

            async def two_again() -> bool:
                return len(workers_of(process)) == 2 and await is_ready()

            await until(two_again)
            before = workers_of(process)
            process.child.send_signal(signal.SIGHUP)
            await until(both_are_others)
            os.kill(min(workers_of(process)), signal.SIGKILL)
            await until(two_again)
            answers = await asyncio.gather(*(client.get("/users/1") for _ in range(50)))
            assert {answer.status_code for answer in answers} == {200}

            process.child.send_signal(signal.SIGTERM)
            began = time.monotonic()
            await until(is_draining, 15)
            await asyncio.to_thread(process.child.wait)
            seconds = time.monotonic() - began
        report(seconds_from_sigterm_to_the_end=round(seconds, 1))
        assert seconds < 20
        assert workers_of(process) == set()
