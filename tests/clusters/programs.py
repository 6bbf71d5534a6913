"""The programs of a cluster, on the loopback: started, ended, and what to install for them.

Run in a generated project, by its own Python: the server is that of the project's `dev/`.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.core.urls import DRIVER
from dev import database as databases
from dev import server as project_server
from httpx2 import AsyncClient, Limits
from sqlalchemy import URL
from tests.process import PROJECT, Process, serve

# What it has depends on the database.
server: Any = project_server

HERE = Path(__file__).parent
IS_POSTGRESQL = hasattr(server, "open_to_all")

# Seconds for a start: one is usual, a busy machine takes more.
START_LIMIT = 60

# Where Debian, Fedora and others keep Galera's library.
GALERA = [
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib64/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
]

# What all nodes of a Galera cluster begin with.
FIRST = """
FLUSH PRIVILEGES;
CREATE DATABASE app;
CREATE USER app@localhost;
GRANT ALL ON app.* TO app@localhost;
"""


class Missing(Exception):
    """A program is not on this machine: says what to install."""


def find_pgbouncer() -> str:
    """Return PgBouncer's program. Raises Missing."""
    found = shutil.which("pgbouncer", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    said = found and subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    version = re.search(r"PgBouncer (\d+)\.(\d+)", said or "")
    if not found or not version or (int(version[1]), int(version[2])) < (1, 21):
        raise Missing(
            f"PgBouncer 1.21 or newer is not there, but {version[0] if version else 'none'}"
            " (Debian from 13 on: apt-get install pgbouncer; older: put a newer one into PATH)"
        )
    return found


def find_galera() -> str:
    """Return Galera's library. Raises Missing."""
    for library in GALERA:
        if Path(library).exists():
            return library
    raise Missing("Galera's library is not there (Debian: apt-get install galera-4)")


def find_galera_server() -> Path:
    """Return MariaDB's server, which Galera works with. Raises Missing."""
    with suppress(FileNotFoundError):
        program = Path(server.find())
        if server.is_mariadb(program):
            return program
    raise Missing("MariaDB's server is not there (Debian: apt-get install mariadb-server-core)")


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def short_folder() -> Iterator[Path]:
    """Return a folder of the server's user, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(
        prefix="cluster-", dir="/tmp", ignore_cleanup_errors=True
    ) as name:
        server.own(Path(name))
        yield Path(name)


async def until(condition: Callable[[], Awaitable[object]], limit: float = START_LIMIT) -> float:
    """Wait until a condition is true; return the seconds that took. Errors count as false."""
    began = time.monotonic()
    while True:
        try:
            if await condition():
                return time.monotonic() - began
        except Exception as error:
            if time.monotonic() - began > limit:
                raise AssertionError(f"Not within {limit} s") from error
        assert time.monotonic() - began < limit, f"Not within {limit} s"
        await asyncio.sleep(0.05)


@dataclass
class Program:
    """A program that runs, or ran: it can be killed and started again."""

    command: list[str]
    log: Path
    stop: signal.Signals
    # The user that runs it, and its environment, for `subprocess`.
    identity: dict[str, object] = field(default_factory=dict)
    holder: asyncio.subprocess.Process | None = None
    pid: int = 0

    async def start(self, *more: str) -> None:
        """Start it, with more options."""
        assert self.holder is None or self.holder.returncode is not None
        with self.log.open("ab") as log:
            self.holder = await asyncio.create_subprocess_exec(
                *(sys.executable, str(HERE / "hold.py"), str(int(self.stop))),
                json.dumps(self.identity),
                *self.command,
                *more,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        assert self.holder.stdout is not None
        self.pid = int(await self.holder.stdout.readline())

    def signal(self, what: signal.Signals) -> None:
        """Send a signal to it, and to the processes that it has started."""
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, text=True
        )
        for pid in [self.pid, *map(int, children.stdout.split())]:
            with suppress(ProcessLookupError):
                os.kill(pid, what)

    async def kill(self) -> None:
        """End it as a power cut would."""
        assert self.holder is not None
        self.signal(signal.SIGKILL)
        await self.holder.wait()

    async def end(self) -> None:
        """End it in order; frozen or dead, it ends as well."""
        if self.holder is None:
            return
        assert self.holder.stdin is not None
        if self.holder.returncode is None:
            self.signal(signal.SIGCONT)
        self.holder.stdin.close()
        await self.holder.wait()

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:]


@dataclass
class Node:
    """A database server on a port of the loopback."""

    program: Program
    folder: Path
    port: int
    # Of the administrator, on the database of the tests.
    admin: URL

    @property
    def url(self) -> URL:
        """Return the URL of the service's user."""
        return self.admin.set(username="app")

    async def execute(self, statement: str) -> str:
        """Run a statement as administrator; return its first value, if any, as text."""
        return await databases.execute(self.admin, statement)

    async def answers(self) -> bool:
        """Return whether it takes statements. Raises what prevents it."""
        return await self.execute("SELECT 1") == "1"

    async def is_synced(self) -> bool:
        """Return whether a node of Galera is part of its cluster. Raises what prevents it."""
        state = "SELECT variable_value FROM information_schema.global_status"
        return await self.execute(f"{state} WHERE variable_name = 'wsrep_ready'") == "ON"

    async def become_cluster(self) -> None:
        """Make a node of Galera that has lost the others a cluster of its own, as people do it."""
        words = ["--no-defaults", "--user=root", f"--socket={self.folder / 'server'}", "--execute"]
        statement = "SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'"
        client = server.which("mariadb", "mysql")
        shell = await asyncio.create_subprocess_exec(client, *words, statement)
        assert await shell.wait() == 0


def url_of(port: int, user: str, database: str) -> URL:
    """Return a URL on the loopback, without TLS, which neither the wheel nor a pooler has."""
    query = {"ssl": "disable"} if IS_POSTGRESQL else {}
    return URL.create(DRIVER, user, host="127.0.0.1", port=port, database=database, query=query)


async def migrating(url: URL, *words: str, folder: Path = PROJECT) -> asyncio.subprocess.Process:
    """Start Alembic in a project, by default to make the tables."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", *(words or ("upgrade", "head"))),
        cwd=folder,
        env=os.environ | {"DATABASE_URL": url.render_as_string(hide_password=False)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def migrate(url: URL, *words: str, folder: Path = PROJECT) -> tuple[int, str]:
    """Run Alembic in a project, by default to make the tables; return exit code and output."""
    process = await migrating(url, *words, folder=folder)
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def copy_project(folder: Path) -> Path:
    """Copy the project, so that a test can give it more revisions."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "bench", "tests")
    return Path(shutil.copytree(PROJECT, folder, ignore=ignored, dirs_exist_ok=True))


def initialized(folder: Path) -> Path:
    """Make the data of a server that the loopback gets into; return their folder."""
    data = folder / "data"
    data.mkdir()
    server.own(data)
    server.initialize(server.reachable(server.find(), folder), data)
    if IS_POSTGRESQL:
        lines = [
            "local all,replication all trust",
            "host all,replication all 127.0.0.1/32 trust",
        ]
        (data / "pg_hba.conf").write_text("\n".join([*lines, ""]))
    return data


def postgresql_at(folder: Path, *options: str, port: int = 0) -> Node:
    """Return a PostgreSQL on the data in a folder, to be started. Options: `name=value`."""
    binaries = server.reachable(server.find(), folder)
    port = port or free_port()
    command = server.command(binaries, folder / "data", folder, False)
    listen = ["listen_addresses=127.0.0.1", f"port={port}", "fsync=off"]
    for option in [*listen, *options]:
        command += ["-c", option]
    program = Program(command, folder / "log", server.STOP, server.identity())
    return Node(program, folder, port, url_of(port, "postgres", "postgres"))


@asynccontextmanager
async def postgresql(*options: str) -> AsyncIterator[Node]:
    """Run a PostgreSQL with a database of the user `app`; options as `name=value`."""
    with short_folder() as folder:
        initialized(folder)
        node = postgresql_at(folder, *options)
        try:
            await node.program.start()
            await until(node.answers)
            await node.execute("CREATE ROLE app LOGIN")
            await node.execute("CREATE DATABASE app OWNER app")
            node.admin = node.admin.set(database="app")
            yield node
        finally:
            await node.program.end()


@asynccontextmanager
async def pgbouncer(node: Node, **settings: object) -> AsyncIterator[URL]:
    """Run a PgBouncer in transaction mode before a server; give the URL of the user `app`."""
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": free_port(),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": 20,
        "max_client_conn": 1000,
        "max_prepared_statements": 200,
        # As the service's README has it.
        "ignore_startup_parameters": "statement_timeout,idle_in_transaction_session_timeout"
        ",client_connection_check_interval",
        "admin_users": "app",
    } | settings
    with short_folder() as folder:
        target = f"* = host=127.0.0.1 port={node.port} user=app"
        lines = ["[databases]", target, "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        ini = folder / "pgbouncer.ini"
        ini.write_text("\n".join([*lines, ""]))
        # It refuses root as well.
        log = folder / "log"
        command = [find_pgbouncer(), str(ini)]
        program = Program(command, log, signal.SIGINT, as_nobody())
        url = url_of(int(str(options["listen_port"])), "app", "app")

        async def answers() -> bool:
            return await databases.execute(url, "SELECT 1") == "1"

        try:
            await program.start()
            await until(answers)
            yield url
        finally:
            await program.end()


def as_nobody() -> dict[str, object]:
    """Return another user than root."""
    return server.identity() if IS_POSTGRESQL else {}


def galera_at(folder: Path, own: int, ports: list[int]) -> Node:
    """Return a node of a Galera cluster on the data in a folder, to be started."""
    port, state_port = free_port(), free_port()
    command = server.command(find_galera_server(), folder / "data", folder, True)
    command = [word for word in command if not word.startswith(("--skip-net", "--init-file"))]
    options = f"gmcast.listen_addr=tcp://127.0.0.1:{own};ist.recv_addr=127.0.0.1:{state_port}"
    # A node that is silent is left behind within seconds; no gigabytes for what others missed.
    options += ";evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S"
    options += ";gcache.size=8M"
    command += [
        f"--port={port}",
        "--bind-address=127.0.0.1",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
        "--wsrep-on=ON",
        f"--wsrep-provider={find_galera()}",
        f"--wsrep-cluster-address=gcomm://{','.join(f'127.0.0.1:{each}' for each in ports)}",
        f"--wsrep-node-address=127.0.0.1:{own}",
        # All nodes begin with copies of the same data.
        "--wsrep-sst-method=skip",
        f"--wsrep-provider-options={options}",
    ]
    program = Program(command, folder / "log", signal.SIGTERM)
    return Node(program, folder, port, url_of(port, "root", "app"))


def fill(data: Path) -> None:
    """Give the data of a node a database of the user `app`."""
    words = ["--no-defaults", "--bootstrap", f"--datadir={data}", *server.as_root()]
    program = find_galera_server()
    subprocess.run([program, *words], input=FIRST, check=True, capture_output=True, text=True)


@asynccontextmanager
async def galera(count: int = 3) -> AsyncIterator[list[Node]]:
    """Run a Galera cluster, with a database of the user `app`."""
    async with AsyncExitStack() as stack:
        folders = [stack.enter_context(short_folder()) for _ in range(count)]
        data = initialized(folders[0])
        fill(data)
        for folder in folders[1:]:
            shutil.copytree(data, folder / "data")
        ports = [free_port() for _ in folders]
        nodes = [galera_at(folder, own, ports) for folder, own in zip(folders, ports, strict=True)]
        resume_cluster(folders)
        for node in nodes:
            stack.push_async_callback(node.program.end)
            await node.program.start()
        for node in nodes:
            await until(node.is_synced)
        yield nodes


def resume_cluster(folders: list[Path]) -> None:
    """Make the nodes of a new cluster those of one that stopped: no state has to be copied."""
    names = [str(uuid4()) for _ in folders]
    members = "".join(f"member: {name} 0\n" for name in names)
    cluster = uuid4()
    for folder, name in zip(folders, names, strict=True):
        (folder / "data" / "gvwstate.dat").write_text(
            f"my_uuid: {name}\n#vwbeg\nview_id: 3 {names[0]} 1\nbootstrap: 0\n{members}#vwend\n"
        )
        (folder / "data" / "grastate.dat").write_text(
            f"version: 2.1\nuuid: {cluster}\nseqno: 0\nsafe_to_bootstrap: 0\n"
        )


@asynccontextmanager
async def served(
    url: URL, *options: str, **settings: str
) -> AsyncIterator[tuple[Process, AsyncClient]]:
    """Serve the application with more routes, with options of uvicorn's."""
    settings |= {"DATABASE_URL": url.render_as_string(hide_password=False)}
    settings |= {"PYTHONPATH": str(HERE)}
    limits = Limits(max_connections=50)
    with serve("more_routes:app", *options, **settings) as process:
        async with AsyncClient(base_url=process.url, timeout=30, limits=limits) as client:
            yield process, client


def report(**figures: object) -> None:
    """Print figures for people who read the output."""
    print(f"FIGURES {json.dumps(figures)}", flush=True)
