"""`python -m dev serve`: serve with a database of its own. `python -m dev run COMMAND …`: run
a command, with `DATABASE_URL` where that is set, else with the same database. `python -m dev
revision MESSAGE`: write a migration from the models, with either. `python -m dev shell`: look
into either. `python -m dev resource NAME FIELDS` and `python -m dev remove NAME`: write a resource,
and take it away.

The database lasts, in `.dev-database`.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import make_url

from dev import database

PROJECT = Path(__file__).parent.parent
HOST = "127.0.0.1"


def set_database_url(url: str) -> None:
    """Hand the URL on to the processes that this one starts or becomes."""
    os.environ["DATABASE_URL"] = url


def serve(port: int) -> None:
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
    server = database.start(PROJECT)
    if server.shared:
        sys.exit("`make dev` is already running for this project. Stop it first.")
    set_database_url(server.url.render_as_string(hide_password=False))
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], check=True, cwd=PROJECT)
    # The database ends when the web server does: it keeps the supervisor's standard input.
    assert server.supervisor.stdin is not None
    os.set_inheritable(server.supervisor.stdin.fileno(), True)
    os.chdir(PROJECT)
    words = ["uvicorn", "app.main:app", "--reload", "--reload-dir", "app"]
    words += ["--host", HOST, "--port", str(port), "--timeout-graceful-shutdown", "3"]
    os.execv(sys.executable, [sys.executable, "-m", *words])


def alembic(*words: str) -> int:
    """Run Alembic's command line, and return its exit code."""
    return subprocess.run([sys.executable, "-m", "alembic", *words], cwd=PROJECT).returncode


@contextmanager
def chosen_database() -> Iterator[bool]:
    """Run the database of `make dev` where there is no `DATABASE_URL`; give whether it does."""
    if "DATABASE_URL" in os.environ | dotenv_values(PROJECT / ".env"):
        yield False
        return
    server = database.start(PROJECT)
    set_database_url(server.url.render_as_string(hide_password=False))
    try:
        yield True
    finally:
        server.stop()


def run(module: str, arguments: list[str]) -> int:
    """Run a Python module as a command, and return its exit code."""
    with chosen_database():
        return subprocess.run([sys.executable, "-m", module, *arguments], cwd=PROJECT).returncode


def revision(message: str) -> int:
    """Write a migration from the models, and return Alembic's exit code.

    It is the difference between models and database, so that this has to be up to date: `make
    dev`'s is migrated first. One that was named may be production's, and is left as it is.
    """
    with chosen_database() as is_own:
        return (is_own and alembic("upgrade", "head")) or alembic(
            "revision", "--autogenerate", "-m", message
        )


def shell() -> int:
    """Run the database's own shell, and return its exit code."""
    with chosen_database():
        url = os.environ.get("DATABASE_URL") or dotenv_values(PROJECT / ".env")["DATABASE_URL"]
        words, more = database.shell(make_url(str(url)))
        return subprocess.run(words, env=os.environ | more).returncode


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m dev", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("--port", type=int, default=8000)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("module")
    run_parser.add_argument("arguments", nargs=argparse.REMAINDER)
    commands.add_parser("revision").add_argument("message")
    commands.add_parser("shell")
    resource_parser = commands.add_parser("resource")
    resource_parser.add_argument("name")
    resource_parser.add_argument("fields")
    resource_parser.add_argument("--key", default="int")
    resource_parser.add_argument("--plural", default="")
    commands.add_parser("remove").add_argument("name")
    arguments = parser.parse_args()
    try:
        if arguments.command == "serve":
            serve(arguments.port)
        elif arguments.command == "revision":
            sys.exit(revision(arguments.message))
        elif arguments.command == "shell":
            sys.exit(shell())
        elif arguments.command in ("resource", "remove"):
            # Not for the other commands, which need no models.
            from dev import resource

            sys.exit(
                resource.remove(arguments.name)
                if arguments.command == "remove"
                else resource.make(
                    arguments.name, arguments.fields, arguments.key, arguments.plural
                )
            )
        else:
            sys.exit(run(arguments.module, arguments.arguments))
    except (database.NoServer, FileNotFoundError, RuntimeError) as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
