"""A service on Galera: nodes that take writes, each of them, and refuse them when alone."""

import asyncio
import signal
import time
from collections import Counter
from itertools import count
from pathlib import Path

from httpx2 import AsyncClient
from programs import (
    Node,
    copy_project,
    galera,
    migrate,
    migrating,
    report,
    served,
    short_folder,
    until,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

# The second one to run it fails: what it makes is there.
REVISION = """
from alembic import op
revision, down_revision = "1a57", "{head}"
def upgrade() -> None:
    op.execute("SELECT SLEEP({seconds})")
    op.execute("CREATE TABLE made_once (number integer PRIMARY KEY)")
def downgrade() -> None:
    op.execute("DROP TABLE made_once")
"""


async def with_revision(folder: Path, node: Node, seconds: float) -> Path:
    """Copy the project, migrate, and give it one revision more."""
    project = copy_project(folder / "project")
    code, said = await migrate(node.url, folder=project)
    assert code == 0, said
    write_revision(project, await node.execute("SELECT version_num FROM alembic_version"), seconds)
    return project


def write_revision(project: Path, head: str, seconds: float) -> None:
    """Write a revision that takes some seconds."""
    last = project / "migrations" / "versions" / "last.py"
    last.write_text(REVISION.format(head=head, seconds=seconds))


async def test_of_three_replicas_at_three_nodes_one_migrates() -> None:
    async with galera() as nodes:
        with short_folder() as folder:
            project = await with_revision(folder, nodes[0], 2)
            for _ in range(2):
                replicas = await asyncio.gather(
                    *(migrate(node.url, folder=project) for node in nodes)
                )
                assert [code for code, _ in replicas] == [0, 0, 0], replicas
                assert sum("-> 1a57" in said for _, said in replicas) == 1
                for node in nodes:
                    assert await node.execute("SELECT count(*) FROM made_once") == "0"
                    assert await node.execute("SELECT count(*) FROM alembic_lock") == "0"
                code, said = await migrate(nodes[0].url, "downgrade", "-1", folder=project)
                assert code == 0, said


async def test_a_lock_is_taken_from_a_dead_replica_at_another_node() -> None:
    async with galera(2) as nodes:
        with short_folder() as folder:
            project = await with_revision(folder, nodes[0], 3600)
            lock = project / "migrations" / "lock.py"
            lock.write_text(
                lock.read_text()
                .replace("BEAT = 3\n", "BEAT = 0.5\n")
                .replace("DEAD_AFTER = 30\n", "DEAD_AFTER = 3\n")
            )
            doomed = await migrating(nodes[0].url, folder=project)

            async def beats() -> bool:
                return int(await nodes[1].execute("SELECT beats FROM alembic_lock")) > 1

            await until(beats)
            head = await nodes[0].execute("SELECT version_num FROM alembic_version")
            write_revision(project, head, 0)
            waiting = asyncio.create_task(migrate(nodes[1].url, folder=project))
            await asyncio.sleep(5)
            assert not waiting.done()
            doomed.send_signal(signal.SIGKILL)
            await doomed.wait()
            began = time.monotonic()
            code, said = await asyncio.wait_for(waiting, 60)
            assert code == 0, said
            assert "-> 1a57" in said
            assert time.monotonic() - began > 2


async def test_a_node_that_has_lost_its_cluster_is_answered_503() -> None:
    async with galera(2) as nodes:
        here, there = nodes
        assert (await migrate(here.url))[0] == 0
        async with served(here.url, POOL_TIMEOUT="2") as (process, client):
            statuses: Counter[int] = Counter()
            acknowledged: set[str] = set()
            over = asyncio.Event()

            async def write(writer: int) -> None:
                for number in count():
                    email = f"{writer}-{number}@example.com"
                    answer = await client.post("/users", json={"email": email})
                    statuses[answer.status_code] += 1
                    if answer.status_code == 201:
                        acknowledged.add(email)
                    elif answer.status_code == 503:
                        assert answer.headers["retry-after"] == "1"
                        await asyncio.sleep(0.05)
                    if over.is_set():
                        return

            async def is_ready() -> bool:
                return (await client.get("/health/ready")).status_code == 200

            async def is_not_ready() -> bool:
                return (await client.get("/health/ready")).status_code == 503

            async with asyncio.TaskGroup() as group:
                for writer in range(20):
                    group.create_task(write(writer))
                await asyncio.sleep(1)
                await there.program.kill()
                await until(is_not_ready, 15)
                assert (await client.get("/users")).status_code == 503
                await asyncio.sleep(1)
                # By hand: this node alone is the cluster now.
                await here.become_cluster()
                seconds = await until(is_ready, 15)
                await asyncio.sleep(1)
                over.set()
            said = process.log.read_text()
        engine = create_async_engine(here.admin)
        async with engine.connect() as connection:
            rows = set(await connection.scalars(text("SELECT email FROM users")))
        await engine.dispose()
        lost = acknowledged - rows
        report(statuses=statuses, seconds_to_recover=round(seconds, 2), lost=len(lost))
        assert set(statuses) <= {201, 503, 504}
        assert statuses[201] > 20
        assert not lost
        assert "Traceback" not in said


async def test_two_nodes_that_change_one_row_both_succeed() -> None:
    async with galera(2) as nodes:
        assert (await migrate(nodes[0].url))[0] == 0
        async with served(nodes[0].url) as (_, here), served(nodes[1].url) as (_, there):
            created = await here.post("/users", json={"email": "a@example.com"})
            path = created.headers["location"]

            async def is_there() -> bool:
                return (await there.get(path)).status_code == 200

            await until(is_there)
            statuses: Counter[int] = Counter()

            async def change(client: AsyncClient, name: str) -> None:
                for number in range(30):
                    answer = await client.patch(path, json={"full_name": f"{name} {number}"})
                    statuses[answer.status_code] += 1
                    answer = await client.post(f"/again{path}", params={"full_name": name})
                    statuses[answer.status_code] += 1

            changes = [change(client, name) for name in "abc" for client in (here, there)]
            await asyncio.gather(*changes)
            conflicts = "SELECT sum(variable_value) FROM information_schema.global_status"
            conflicts += (
                " WHERE variable_name IN ('wsrep_local_bf_aborts', 'wsrep_local_cert_failures')"
            )
            lost = [int(float(await node.execute(conflicts))) for node in nodes]
            report(statuses=statuses, lost_to_another_node=lost)
            assert set(statuses) <= {200, 503}
            assert statuses[200] > 10 * statuses[503]
            assert sum(lost) > 0
