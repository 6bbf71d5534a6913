"""What is measured: an empty database, and services on it, each a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from sqlalchemy import URL

from dev import database

PROJECT = Path(__file__).parent.parent

# Seconds; a process needs one or two, a busy machine more.
START_LIMIT = 30


@contextmanager
def migrated_database() -> Iterator[URL]:
    """Give a database on the server that the tests use. Raises NoServer."""
    with database.running() as server:
        name = f"bench_{uuid4().hex[:12]}"
        url = database.create_database(server, name)
        try:
            alembic = [sys.executable, "-m", "alembic", "upgrade", "head"]
            subprocess.run(alembic, check=True, capture_output=True, cwd=PROJECT, env=env(url))
            yield url
        finally:
            database.drop_database(server, name)


def env(url: URL, **settings: object) -> dict[str, str]:
    """Return the environment of a process on a database."""
    return {
        # What is not written cannot be read: every start would compile again.
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "DATABASE_URL": url.render_as_string(hide_password=False),
        **{name.upper(): str(value) for name, value in settings.items()},
    }


@contextmanager
def serve(application: str, url: URL, pool_size: int) -> Iterator[str]:
    """Run a service in one worker; give its address. Raises RuntimeError if it does not start."""
    settings = {"pool_size": pool_size, "max_overflow": 0, "echo_sql": False, "web_concurrency": 1}
<% if cookiecutter.sync_bridge == "yes" %>
    # Its default, whatever the environment says for another POOL_SIZE.
    settings["sync_pool_size"] = max(1, pool_size // 4)
<% endif %>
    words = [sys.executable, "-m", "uvicorn", application, "--port", "0", "--no-access-log"]
    words += ["--timeout-graceful-shutdown", "3"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, cwd=PROJECT, env=env(url, **settings), stdout=out, stderr=out
            )
        try:
            yield address(process, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until a service says where it listens."""
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise RuntimeError(f"The service does not start:\n{log.read_text()}")
