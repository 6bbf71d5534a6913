"""A primary and its replica, on the loopback: streaming replication, or that of MariaDB by GTID."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from programs import (
    IS_POSTGRESQL,
    Node,
    Program,
    free_port,
    initialized,
    migrate,
    postgresql_at,
    server,
    short_folder,
    until,
    url_of,
)

FIRST = [
    "CREATE DATABASE app",
    "CREATE USER app@localhost",
    "GRANT ALL ON app.* TO app@localhost",
    "CREATE USER replica@localhost",
    "GRANT REPLICATION SLAVE ON *.* TO replica@localhost",
]

# MariaDB's word, and MySQL's.
REPLICA = "SLAVE" if IS_POSTGRESQL or server.is_mariadb(server.find()) else "REPLICA"


@dataclass
class Pair:
    """A primary and a replica of it, with the tables of the service."""

    primary: Node
    replica: Node

    @property
    def urls(self) -> dict[str, str]:
        """Return the settings of a service that reads from the replica."""
        return {
            "DATABASE_URL": self.primary.url.render_as_string(hide_password=False),
            "DATABASE_READ_URL": self.replica.url.render_as_string(hide_password=False),
        }

    async def pause(self) -> None:
        """Let the replica fall behind."""
        await self.replica.execute(
            "SELECT pg_wal_replay_pause()" if IS_POSTGRESQL else f"STOP {REPLICA} SQL_THREAD"
        )

    async def resume(self) -> None:
        """Let it catch up."""
        await self.replica.execute(
            "SELECT pg_wal_replay_resume()" if IS_POSTGRESQL else f"START {REPLICA} SQL_THREAD"
        )

    async def promote(self) -> None:
        """Make the replica a primary, as whoever watches over a cluster does."""
        await self.replica.execute("SELECT pg_promote()")


@asynccontextmanager
async def replicated(*options: str) -> AsyncIterator[Pair]:
    """Run a primary and a replica, migrated; options as the server takes them, for both."""
    start = postgresql_pair if IS_POSTGRESQL else mysql_pair
    async with AsyncExitStack() as stack:
        pair = await start(stack, *options)
        assert (await migrate(pair.primary.url))[0] == 0

        async def caught_up() -> bool:
            return await pair.replica.execute("SELECT count(*) FROM users") == "0"

        await until(caught_up)
        yield pair


async def postgresql_pair(stack: AsyncExitStack, *options: str) -> Pair:
    """Run PostgreSQL with a replica that streams."""
    folders = [stack.enter_context(short_folder()) for _ in range(2)]
    initialized(folders[0])
    primary = postgresql_at(folders[0], "hot_standby_feedback=on", *options)
    stack.push_async_callback(primary.program.end)
    await primary.program.start()
    await until(primary.answers)
    await primary.execute("CREATE ROLE app LOGIN")
    await primary.execute("CREATE DATABASE app OWNER app")
    # The folder's own, when the server's user cannot get at the project.
    binaries = server.reachable(server.find(), folders[1])
    words = ["--host=127.0.0.1", f"--port={primary.port}", "--username=postgres"]
    copy = [binaries / "pg_basebackup", *words, "--write-recovery-conf", "--checkpoint=fast"]
    copy += ["--wal-method=stream", "--no-sync", f"--pgdata={folders[1] / 'data'}"]
    await asyncio.to_thread(lambda: subprocess.run(copy, check=True, cwd="/", **server.identity()))
    replica = postgresql_at(folders[1], *options)
    stack.push_async_callback(replica.program.end)
    await replica.program.start()
    await until(replica.answers)
    for node in (primary, replica):
        node.admin = node.admin.set(database="app")
    return Pair(primary, replica)


async def mysql_pair(stack: AsyncExitStack, *options: str) -> Pair:
    """Run MariaDB or MySQL with a replica, by GTID."""
    nodes = []
    for number in (1, 2):
        folder = stack.enter_context(short_folder())
        initialized(folder)
        # Not as a throwaway: killed, it must come back with what it had.
        command = server.command(server.find(), folder / "data", folder, False)
        left_out = ("--skip-net", "--skip-log-bin", "--init-file")
        command = [word for word in command if not word.startswith(left_out)]
        port = free_port()
        command += [f"--port={port}", "--bind-address=127.0.0.1", "--log-bin=log"]
        command += [f"--server-id={number}", "--binlog-format=ROW", *options]
        if REPLICA == "REPLICA":
            command += ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"]
        program = Program(command, folder / "log", signal.SIGTERM)
        node = Node(program, folder, port, url_of(port, "root", "mysql"))
        stack.push_async_callback(program.end)
        await program.start()
        nodes.append(node)
    for node in nodes:
        await until(node.answers)
    primary, replica = nodes
    for statement in FIRST:
        await primary.execute(statement)
    where = f"host = '127.0.0.1', {{0}}_port = {primary.port}, {{0}}_user = 'replica'"
    if REPLICA == "SLAVE":
        how = "CHANGE MASTER TO master_use_gtid = slave_pos, master_connect_retry = 1, master_"
        await replica.execute(how + where.format("master"))
        await replica.execute("START SLAVE")
    else:
        how = "CHANGE REPLICATION SOURCE TO source_auto_position = 1, source_connect_retry = 1"
        how += ", get_source_public_key = 1, source_"
        await replica.execute(how + where.format("source"))
        await replica.execute("START REPLICA")
    for node in nodes:
        node.admin = node.admin.set(database="app")
    return Pair(primary, replica)
