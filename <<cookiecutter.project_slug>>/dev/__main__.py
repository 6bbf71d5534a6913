"""Commands of development, which `make` calls: `python -m dev --help`.

Each works on the database of `DATABASE_URL`, and without one on that of `make dev`, which lasts, in
`.dev-database`.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import make_url

from dev import database

PROJECT = Path(__file__).parent.parent
HOST = "127.0.0.1"


def call(*words: str) -> int:
    """Run a Python module in the project, and return its exit code."""
    return subprocess.run([sys.executable, "-m", *words], cwd=PROJECT).returncode


def start_database() -> database.Server:
    """Start the project's database, and name it to the processes that this one starts or becomes."""
    server = database.start(PROJECT)
    os.environ["DATABASE_URL"] = server.url.render_as_string(hide_password=False)
    return server


def serve(port: int) -> int:
    """Start the database, migrate, and become the web server, which reloads on changes."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            sys.exit(
                f"Port {port} cannot be used: {error}. If `make dev` is running already, stop it;"
                " else choose another port: make dev PORT=8001"
            )
    server = start_database()
    if server.shared:
        sys.exit("`make dev` is already running for this project. Stop it first.")
    if code := call("alembic", "upgrade", "head"):
        return code
    # The database ends when the web server does: it keeps the supervisor's standard input.
    assert server.supervisor.stdin is not None
    os.set_inheritable(server.supervisor.stdin.fileno(), True)
    os.chdir(PROJECT)
    words = ["uvicorn", "app.main:app", "--reload", "--reload-dir", "app"]
    words += ["--host", HOST, "--port", str(port), "--timeout-graceful-shutdown", "3"]
    os.execv(sys.executable, [sys.executable, "-m", *words])


@contextmanager
def chosen_database() -> Iterator[bool]:
    """Run the database of `make dev` where there is no `DATABASE_URL`; give whether it does."""
    if "DATABASE_URL" in os.environ | dotenv_values(PROJECT / ".env"):
        yield False
        return
    server = start_database()
    try:
        yield True
    finally:
        server.stop()


def run(module: str, arguments: list[str]) -> int:
    """Run a Python module as a command."""
    with chosen_database():
        return call(module, *arguments)


def revision(message: str) -> int:
    """Write a migration from the models.

    It is the difference between models and database, so that this has to be up to date: `make
    dev`'s is migrated first. One that was named may be production's, and is left as it is.
    """
    with chosen_database() as is_own:
        if is_own and (code := call("alembic", "upgrade", "head")):
            return code
        return call("alembic", "revision", "--autogenerate", "-m", message)


def shell() -> int:
    """Run the database's own shell."""
    with chosen_database():
        url = os.environ.get("DATABASE_URL") or dotenv_values(PROJECT / ".env")["DATABASE_URL"]
        words, more = database.shell(make_url(str(url)))
        return subprocess.run(words, env=os.environ | more).returncode


def resource(name: str, fields: str, key: str, plural: str) -> int:
    """Write a resource."""
    # Not for the other commands, which need no models.
    from dev import resource

    return resource.make(name, fields, key, plural)


def remove(name: str) -> int:
    """Take a resource away."""
    from dev import removal

    return removal.remove(name)


def main() -> int:
    """Run the command of the command line, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def add(command: Callable[..., int], *arguments: str) -> argparse.ArgumentParser:
        added = commands.add_parser(command.__name__, help=command.__doc__)
        added.set_defaults(command=command)
        for argument in arguments:
            added.add_argument(argument)
        return added

    add(serve).add_argument("--port", type=int, default=8000)
    add(run, "module").add_argument("arguments", nargs=argparse.REMAINDER)
    add(revision, "message")
    add(shell)
    resource_parser = add(resource, "name", "fields")
    resource_parser.add_argument("--key", default="int")
    resource_parser.add_argument("--plural", default="")
    add(remove, "name")
    options = vars(parser.parse_args())
    try:
        code: int = options.pop("command")(**options)
    except (database.NoServer, OSError, RuntimeError) as reason:
        sys.exit(str(reason))
    return code


if __name__ == "__main__":
    sys.exit(main())
