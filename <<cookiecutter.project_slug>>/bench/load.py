"""What is measured and by what: an empty database, services of a process each, and wrk.

wrk is not itself the bottleneck: from one core it asked 50,000 times a second, and Locust with its
fastest client 11,000.
"""

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from alembic import command
from alembic.config import Config
from anyio.from_thread import start_blocking_portal
from sqlalchemy import URL

from dev import database
from tests import process

HOW_TO_GET_WRK = (
    "The load comes from wrk, which is not on this machine. Install it:\n"
    "  Debian, Ubuntu: apt-get install wrk    Fedora: dnf install wrk    macOS: brew install wrk"
)

Request = tuple[str, str, str]


class Figures(NamedTuple):
    """Answers a second; milliseconds that half and 99 % of them took at most; errors."""

    rate: float
    p50: float
    p99: float
    errors: float


@contextmanager
def migrated_database() -> Iterator[URL]:
    """Give a database on the server that the tests use, to all services. Raises NoServer."""
    # What is not written cannot be read: every start would compile again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with database.running() as server:
        name = f"bench_{uuid4().hex[:12]}"
        url = database.create_database(server, name)
        try:
            address = url.render_as_string(hide_password=False)
            os.environ.update(process.SETTINGS, DATABASE_URL=address)
            command.upgrade(Config(toml_file=process.PROJECT / "pyproject.toml"), "head")
            yield url
        finally:
            database.drop_database(server, name)


@contextmanager
def serve(application: str, **settings: str) -> Iterator[str]:
    """Run a service in one worker; give its address. Raises RuntimeError if it does not start."""
<% if cookiecutter.sync_bridge == "yes" %>
    if size := settings.get("POOL_SIZE"):
        settings["SYNC_POOL_SIZE"] = str(max(1, int(size) // 4))
<% endif %>
    service = process.serve(application, **settings)
    with start_blocking_portal() as loop, loop.wrap_async_context_manager(service) as running:
        yield running.url


def load(
    url: str, requests: Iterable[Request], clients: int, seconds: float, **headers: str
) -> Figures:
    """Send requests for some seconds: a client sends the next one when the last is answered.

    A request is a method, a path and a body. Raises RuntimeError when wrk fails.
    """
    # It counts whole seconds; told to stop before, it still says what it has seen.
    words = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={int(seconds) + 2}s"]
    words += ["--timeout=10s", f"--script={Path(__file__).with_name('load.lua')}"]
    words += [f"--header={name}: {value}" for name, value in headers.items()]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.writelines("\t".join(request) + "\n" for request in requests)
        file.flush()
        words += [url, "--", file.name]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as wrk:
            assert wrk.stdout is not None
            # The script has read its requests.
            wrk.stdout.readline()
            time.sleep(seconds)
            wrk.send_signal(signal.SIGINT)
            said = wrk.stdout.read()
    _, found, figures = said.partition("FIGURES ")
    if not found:
        raise RuntimeError(f"wrk failed:\n{said}")
    return Figures(**json.loads(figures))


def median(rounds: Sequence[Figures]) -> Figures:
    """Return the middle of each figure, and all errors."""
    middle = Figures(*map(statistics.median, zip(*rounds, strict=True)))
    return middle._replace(errors=sum(figures.errors for figures in rounds))
