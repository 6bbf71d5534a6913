"""A database server for tests and development, by its URL.

`python -m dev.database` says which one there is.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

<% if cookiecutter.database == "mysql" %>
from app.core.connect import MAX_CONNECTIONS, MODES
<% else %>
from app.core.connect import MAX_CONNECTIONS
<% endif %>
from dev import server
from dev.supervisor import NO_SERVER

PROJECT = Path(__file__).parent.parent


class NoServer(Exception):
    """The machine has no server, with the way to get one."""


@dataclass
class Server:
    """A server that ends with this process, or when it is stopped."""

    url: URL
    shared: bool
    supervisor: subprocess.Popen[str]

    def stop(self) -> None:
        """End the server, and wait until nothing of it is left; a shared one goes on."""
        self.supervisor.communicate()


def start(project: Path | None = None) -> Server:
    """Start a throwaway server, or the one of a project whose data last.

    Raises NoServer when the machine has none, and RuntimeError when it does not start.
    """
<% if cookiecutter.database == "postgresql" %>
    # These are about another server, and the driver heeds them too.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
<% endif %>
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "dev.supervisor", *([str(project)] if project else [])],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert supervisor.stdout is not None
    line = supervisor.stdout.readline()
    if not line:
        _, reason = supervisor.communicate()
        error = NoServer if supervisor.returncode == NO_SERVER else RuntimeError
        raise error(reason.strip())
    said = json.loads(line)
    return Server(make_url(said["url"]), said["shared"], supervisor)


@contextmanager
def running() -> Iterator[URL]:
    """Give the URL of `TEST_DATABASE_URL`, else of a throwaway server. Raises NoServer."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield make_url(url)
        return
    throwaway = start()
    try:
        yield throwaway.url
    finally:
        throwaway.stop()


def shell(url: URL) -> tuple[list[str], dict[str, str]]:
    """Return the command of a shell on a database, and what its environment needs."""
<% if cookiecutter.database == "postgresql" %>
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    address = url.set(drivername="postgresql", password=None)
    return [str(server.find() / "psql"), address.render_as_string(hide_password=False)], password
<% else %>
    words = [str(server.which("mariadb", "mysql")), f"--database={url.database}"]
    options = {"user": url.username, "host": url.host, "port": url.port}
    options["socket"] = str(url.query.get("unix_socket", "")) or None
    words += [f"--{name}={value}" for name, value in options.items() if value is not None]
    return words, {"MYSQL_PWD": str(url.password)} if url.password else {}
<% endif %>


async def execute(url: URL, statement: str) -> str:
    """Run one statement outside of any transaction; return its first value, if any, as text."""
<% if cookiecutter.database == "mysql" %>
    # The driver prints the server's notes, such as that there was no database to drop.
    options = {"init_command": f"SET {MODES}, sql_notes = 0"}
    engine = create_async_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=options
    )
<% else %>
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
<% endif %>
    async with engine.connect() as connection:
        result = await connection.execute(text(statement))
        value = result.scalar() if result.returns_rows else ""
    await engine.dispose()
    return str(value)


async def drop(server: URL, name: str) -> None:
    """Drop a database that may be there, and may be in use."""
<% if cookiecutter.database == "postgresql" %>
    # WITH (FORCE) fails where autovacuum is at work, which an ordinary role may not end; without,
    # the server ends it.
    await execute(
        server,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pg_has_role(usesysid, 'USAGE')",
    )
<% endif %>
    await execute(server, f"DROP DATABASE IF EXISTS {name}")


@contextmanager
def temporary(server: URL, name: str) -> Iterator[URL]:
    """Give an empty database on a server, in place of an old one of that name, and drop it."""
    asyncio.run(drop(server, name))
<% if cookiecutter.database == "postgresql" %>
    # Copying files is ten times as fast as the default, which writes all to the log first.
    asyncio.run(execute(server, f"CREATE DATABASE {name} STRATEGY file_copy"))
<% else %>
    asyncio.run(execute(server, f"CREATE DATABASE {name}"))
<% endif %>
    try:
        yield server.set(database=name)
    finally:
        asyncio.run(drop(server, name))


@contextmanager
def migrated(server: URL, name: str) -> Iterator[URL]:
    """Give a database that the migrations make, as `DATABASE_URL` of this process and those of it."""
    with temporary(server, name) as url:
        os.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)
        # Also where two lines of revisions are to be joined, which a test says.
        command.upgrade(Config(toml_file=PROJECT / "pyproject.toml"), "heads")
        yield url


def max_connections(url: URL) -> int:
    """Return how many connections the server allows to a service."""
<% if cookiecutter.database == "postgresql" %>
    # There is no pooler between.
    question = MAX_CONNECTIONS.text.replace(":process", "pg_backend_pid()")
    return int(asyncio.run(execute(url, question)))
<% else %>
    return int(asyncio.run(execute(url, MAX_CONNECTIONS.text)))
<% endif %>


def describe(url: URL) -> str:
    """Return the server's name and version, and where it comes from."""
<% if cookiecutter.database == "postgresql" %>
    version = asyncio.run(execute(url, "SHOW server_version"))
    name = f"PostgreSQL {version.split()[0]}"
<% else %>
    version = asyncio.run(execute(url, "SELECT version()"))
    name = f"{'MariaDB' if 'MariaDB' in version else 'MySQL'} {version.split('-')[0]}"
<% endif %>
    return f"{name} ({'TEST_DATABASE_URL' if os.environ.get('TEST_DATABASE_URL') else 'throwaway'})"


if __name__ == "__main__":
    try:
        with running() as server_url:
            print(describe(server_url))
    except NoServer as reason:
        print(reason, file=sys.stderr)
        sys.exit(NO_SERVER)
